//! The relay: carries events from a log to a publisher.
//!
//! Decisions are made by a state machine without input or output; the driver around it reads ahead, hands batches to one
//! task per lane, collects outcomes, and tells the log what is done, parked or given back, all at the
//! same time.

mod builder;
mod driver;
mod events;
mod handle;
mod lane;
mod machine;
mod meters;
#[cfg(test)]
mod simulation;
mod status;
mod tenure;

use std::{future::Future, sync::Arc};

use tokio::sync::watch;

use self::builder::Settings;
pub use self::{
    builder::RelayBuilder,
    handle::RelayHandle,
    status::{LaneStatus, RelayState, RelayStatus},
};
use crate::{
    error::kinded_error,
    log::{ConsumerName, EventLog, LogError, LogErrorKind},
    profile::Profile,
    publisher::Publisher,
};

/// Publishes the events of a log, at least once, the first deliveries in commit order per ordering key.
///
/// # Balancing
/// Any number of relays may run for one consumer, in one process or many. They share its lanes evenly. One that comes
/// gets its share from the others within two thirds of the lease; one that stops gives its lanes back at once, and the
/// others take them at their next renewal, within a third of it. When one dies, its lanes are free when its lease ends.
/// With more relays than lanes some stand by. Lanes that change hands start where they were done, so nothing is
/// repeated but what a relay that died had published and not yet recorded: at most its window.
///
/// A relay that could not renew its lease in time sends nothing more, and finds itself fenced at its next write: it
/// drops all it has, and joins again. What it had handed to the publisher may still be published.
///
/// # Failures
/// A broker or database that is away is waited for, with growing pauses, and nothing is skipped. A lane that is stuck
/// while most others flow does not hold them back, however long it lasts.
///
/// An event that the destination refuses for itself, or that cannot be encoded, is *parked*: set aside in the log, and
/// with it everything later of its [key](crate::event::Event::lane_key), while all other keys flow on. It is tried again
/// as the [retry policy](RelayBuilder::retry) says, then waits until somebody
/// [redrives](crate::log::LogAdmin::redrive) or [discards](crate::log::LogAdmin::discard) it. What waits behind it is
/// published after it, in order, and the key flows again.
///
/// # Load on the log
/// An idle relay looks for events once a [poll](RelayBuilder::poll), and renews its lease three times a
/// [lease](RelayBuilder::lease): 72 calls a minute by default.
///
/// # Metrics
/// With the feature `metrics`, by the facade of that name, labelled with `consumer` and `log`: counters
/// `outbox_relay_read_total`, `…_published_total`, `…_failed_total`, `…_parked_total`, `…_redriven_total`,
/// `…_checkpoints_total` and `…_fenced_total`; gauges `outbox_relay_lanes`, `…_paused_lanes`, `…_in_flight`,
/// `…_blocked_keys` and `…_unpublished_age_seconds`, the age of the oldest event that was read and is not published
/// yet; histograms `outbox_relay_batch_events` and `…_publish_seconds`, from the handing over of a batch to each answer.
///
/// # The publisher
/// Several relays may share a publisher, so a relay never shuts it down. Whoever made it calls
/// [`Publisher::shut_down`] when the last of them has ended.
#[derive(Clone)]
pub struct Relay {
    log: Arc<dyn EventLog>,
    publisher: Arc<dyn Publisher>,
    profile: Profile,
    settings: Settings,
    status: watch::Sender<RelayStatus>,
    lanes: watch::Sender<Vec<LaneStatus>>,
}

impl Relay {
    /// A relay from this log to this publisher. `profile` must be the writers'.
    pub fn builder(log: Arc<dyn EventLog>, publisher: Arc<dyn Publisher>, profile: Profile) -> RelayBuilder {
        RelayBuilder::new(log, publisher, profile)
    }

    /// What the relay is doing, live.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RelayStatus> {
        self.status.subscribe()
    }

    /// Its lanes one by one, live: about ten times a second while it is busy, at each look at the log while it is idle. Who owns the others is told by
    /// [`LogAdmin::consumers`](crate::log::LogAdmin::consumers).
    #[must_use]
    pub fn lanes(&self) -> watch::Receiver<Vec<LaneStatus>> {
        self.lanes.subscribe()
    }

    /// Runs it in a task of its own, until the handle stops it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> RelayHandle {
        RelayHandle::start(self)
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
        self.lanes.send_replace(Vec::new());
        self.status.send_modify(|status| {
            status.state = RelayState::Stopped;
            status.lose_lanes();
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
    /// The task of a [`RelayHandle`] panicked, or was cut off with its runtime.
    Crashed,
}

impl From<LogError> for RelayError {
    fn from(error: LogError) -> Self {
        Self::new(RelayErrorKind::Log(error.kind()), "the relay cannot use its log").with_source(error)
    }
}
