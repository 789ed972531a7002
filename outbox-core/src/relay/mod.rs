//! The relay: carries events from a log to a publisher.
//!
//! Decisions are made by a state machine without input or output; the driver around it reads ahead, hands batches to
//! one task per lane, collects outcomes and records checkpoints, all at the same time.

mod driver;
mod lane;
mod lead;
mod machine;
mod status;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::watch;

pub use status::{RelayState, RelayStatus};

use crate::{
    error::kinded_error,
    log::{ConsumerName, EventLog, LogError, LogErrorKind, StartAt},
    profile::Profile,
    publisher::Publisher,
    retry::Backoff,
};

/// Publishes the events of a log, at least once, the first deliveries in commit order per ordering key.
///
/// Any number of relays may run for one consumer, in one process or many: one owns the lanes, the others stand by and
/// take over when it leaves or its lease ends.
///
/// A broker or database that is away is waited for, with growing pauses, and nothing is skipped. An event that the
/// destination refuses for good holds its lane back and shows in [`RelayStatus::last_error`]: order and loss come
/// first.
#[derive(Clone)]
pub struct Relay {
    log: Arc<dyn EventLog>,
    publisher: Arc<dyn Publisher>,
    profile: Profile,
    settings: Settings,
    status: watch::Sender<RelayStatus>,
}

#[derive(Debug, Clone)]
struct Settings {
    consumer: Option<ConsumerName>,
    start_at: StartAt,
    batch: usize,
    window: usize,
    window_bytes: usize,
    lane_in_flight: usize,
    lease: Duration,
    poll: Duration,
    checkpoint_every: Duration,
    checkpoint_events: usize,
    backoff: Backoff,
    stop_within: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consumer: None,
            start_at: StartAt::Beginning,
            batch: 2_000,
            window: 20_000,
            window_bytes: 64 * 1024 * 1024,
            lane_in_flight: 5_000,
            lease: Duration::from_secs(12),
            poll: Duration::from_secs(1),
            checkpoint_every: Duration::from_millis(50),
            checkpoint_events: 5_000,
            backoff: Backoff::default(),
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

    /// Events per read, at most; fewer when they are large, so that a read takes about 8 MiB. Default: 2,000; at least 1.
    pub fn batch(mut self, events: usize) -> Self {
        self.settings.batch = events.max(1);
        self
    }

    /// Events read and not yet covered by the checkpointable prefix; reading pauses beyond it. It bounds memory, and
    /// the duplicates after a crash. Default: 20,000; at least 1.
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

    /// For how long the lanes stay ours without a word. Renewed at a third of it. Default: 12 s; at least 300 ms.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(Duration::from_millis(300));
        self
    }

    /// The longest pause between two looks at an idle log; commits in this process wake it at once. Default: 1 s.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.settings.poll = poll.max(Duration::from_millis(1));
        self
    }

    /// How long a published event may wait for its checkpoint. Default: 50 ms.
    pub fn checkpoint_every(mut self, every: Duration) -> Self {
        self.settings.checkpoint_every = every;
        self
    }

    /// How many published events make a checkpoint due at once. Default: 5,000; at least 1.
    pub fn checkpoint_events(mut self, events: usize) -> Self {
        self.settings.checkpoint_events = events.max(1);
        self
    }

    /// Pauses after failures. Default: 50 ms growing to 10 s, with full jitter.
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

    /// The relay.
    #[must_use]
    pub fn build(self) -> Relay {
        let Self { log, publisher, profile, settings } = self;
        Relay { log, publisher, profile, settings, status: watch::Sender::default() }
    }
}

impl Relay {
    /// A relay from this log to this publisher. `profile` must be the writers'.
    pub fn builder(log: Arc<dyn EventLog>, publisher: Arc<dyn Publisher>, profile: Profile) -> RelayBuilder {
        RelayBuilder { log, publisher, profile, settings: Settings::default() }
    }

    /// What the relay is doing, live.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RelayStatus> {
        self.status.subscribe()
    }

    /// Runs until `shutdown` completes, then finishes what is under way, records it and gives the lanes back.
    ///
    /// Dropping the future stops at once, as a crash would: the next owner repeats what was not yet recorded.
    ///
    /// # Errors
    /// [`RelayErrorKind::Log`] when the log cannot serve and waiting will not help, such as tables that are missing;
    /// [`RelayErrorKind::Publisher`] when the publisher cannot work as configured.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> Result<(), RelayError> {
        let consumer = match &self.settings.consumer {
            Some(consumer) => consumer.clone(),
            None => ConsumerName::parse("relay")?,
        };
        let ended = driver::run(self, &consumer, shutdown).await;
        self.status.send_modify(|status| {
            status.state = RelayState::Stopped;
            if let Err(error) = &ended {
                status.last_error = Some(crate::error::chain(error));
            }
        });
        ended
    }
}

kinded_error! {
    /// Why a relay ended by itself.
    RelayError, RelayErrorKind
}

/// The kinds of [`RelayError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RelayErrorKind {
    /// The log cannot serve; the source is a [`LogError`].
    Log(LogErrorKind),
    /// The publisher cannot work as configured; the source is a [`crate::publisher::PublishError`].
    Publisher,
}

impl From<LogError> for RelayError {
    fn from(error: LogError) -> Self {
        Self::new(RelayErrorKind::Log(error.kind()), "the relay cannot use its log").with_source(error)
    }
}
