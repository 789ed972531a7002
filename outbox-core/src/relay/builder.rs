//! Setting a relay up.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Relay, RelayHandle};
use crate::{
    log::{ConsumerName, EventLog, StartAt},
    profile::Profile,
    publisher::Publisher,
    retry::{Backoff, RetryPolicy},
};

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) consumer: Option<ConsumerName>,
    pub(super) start_at: StartAt,
    pub(super) batch: usize,
    pub(super) window: usize,
    pub(super) window_bytes: usize,
    pub(super) lane_in_flight: usize,
    pub(super) lease: Duration,
    pub(super) poll: Duration,
    pub(super) checkpoint_every: Duration,
    pub(super) checkpoint_events: usize,
    pub(super) backoff: Backoff,
    pub(super) retry: RetryPolicy,
    pub(super) stop_within: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consumer: None,
            start_at: StartAt::Beginning,
            batch: 5_000,
            window: 20_000,
            window_bytes: 64 * 1024 * 1024,
            lane_in_flight: 5_000,
            lease: Duration::from_secs(15),
            poll: Duration::from_secs(1),
            checkpoint_every: Duration::from_millis(50),
            checkpoint_events: 5_000,
            backoff: Backoff::default(),
            retry: RetryPolicy::default(),
            stop_within: Duration::from_secs(10),
        }
    }
}

/// Sets a relay up. Every setting has a default.
#[derive(Clone)]
#[must_use = "call `build`"]
pub struct RelayBuilder {
    log: Arc<dyn EventLog>,
    publisher: Arc<dyn Publisher>,
    profile: Profile,
    settings: Settings,
}

impl RelayBuilder {
    pub(super) fn new(log: Arc<dyn EventLog>, publisher: Arc<dyn Publisher>, profile: Profile) -> Self {
        Self { log, publisher, profile, settings: Settings::default() }
    }

    /// The consumer whose place in the log this relay keeps. Default: `relay`.
    pub fn consumer(mut self, consumer: ConsumerName) -> Self {
        self.settings.consumer = Some(consumer);
        self
    }

    /// Where to begin when the consumer is new. Default: at the beginning.
    pub fn start_at(mut self, start_at: StartAt) -> Self {
        self.settings.start_at = start_at;
        self
    }

    /// Events per read, at most; fewer when they are large, so that a read takes about 8 MiB. Default: 5,000; at least 1.
    pub fn batch(mut self, events: usize) -> Self {
        self.settings.batch = events.max(1);
        self
    }

    /// Events read and not yet covered by a recorded checkpoint; reading pauses beyond it, so one page may exceed it. It
    /// bounds memory, and the duplicates after a crash: those of a lane that is stuck while others pass it are counted
    /// apart, and so are parked events that are published again. Default: 20,000; at least 1.
    pub fn window(mut self, events: usize) -> Self {
        self.settings.window = events.max(1);
        self
    }

    /// Bytes of the events in the window, payloads and headers and some more for each; reading pauses beyond it, so one
    /// page of about 8 MiB may exceed it. Default: 64 MiB.
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.settings.window_bytes = bytes.max(1);
        self
    }

    /// Events of one lane under way in the publisher. Default: 5,000; at least 1.
    pub fn lane_in_flight(mut self, events: usize) -> Self {
        self.settings.lane_in_flight = events.max(1);
        self
    }

    /// For how long the lanes stay its own without a word. Renewed every third of it, which is also when lanes change
    /// hands, so a shorter one balances sooner and costs more calls. Default: 15 s; at least 300 ms.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(Duration::from_millis(300));
        self
    }

    /// The longest pause between two looks at an idle log, give or take a twentieth, so that relays do not march in
    /// step; commits in this process wake it at once. Default: 1 s; at least 1 ms.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.settings.poll = poll.max(Duration::from_millis(1));
        self
    }

    /// How long a published event may wait for its checkpoint. Default: 50 ms.
    pub fn checkpoint_every(mut self, every: Duration) -> Self {
        self.settings.checkpoint_every = every;
        self
    }

    /// How many published events make a checkpoint due at once; half a [window](RelayBuilder::window) does so in any
    /// case. Default: 5,000; at least 1.
    pub fn checkpoint_events(mut self, events: usize) -> Self {
        self.settings.checkpoint_events = events.max(1);
        self
    }

    /// How often an event that the destination refuses is tried again by itself. Default: 5 attempts in all, with waits
    /// of up to 1 s growing to 5 min.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = policy;
        self
    }

    /// Pauses after failures that are no event's own. Default: 50 ms growing to 10 s, with full jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// How long a stop may take; what is under way then is left to the next owner, which publishes it again. The last
    /// checkpoint and the hand-over may take a second more. Default: 10 s.
    pub fn stop_within(mut self, limit: Duration) -> Self {
        self.settings.stop_within = limit;
        self
    }

    /// The relay, running in a task of its own.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> RelayHandle {
        self.build().start()
    }

    /// The relay.
    #[must_use]
    pub fn build(self) -> Relay {
        let Self { log, publisher, profile, settings } = self;
        Relay { log, publisher, profile, settings, status: watch::Sender::default(), lanes: watch::Sender::default() }
    }
}
