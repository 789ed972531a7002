use std::{sync::Arc, time::Duration};

use super::{LogSource, Pauses, State};
use crate::log::{Claim, ConsumerName, EventLog, MemberId, StartAt};

/// A [`LogSource`] that still needs its consumer's name.
pub struct UnnamedLogSource(pub(super) Arc<dyn EventLog>);

/// Settings of a [`LogSource`].
pub struct LogSourceBuilder {
    log: Arc<dyn EventLog>,
    settings: Settings,
}

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) consumer: ConsumerName,
    pub(super) claim: Claim,
    pub(super) start_at: StartAt,
    pub(super) batch: usize,
    pub(super) lease: Duration,
    pub(super) poll: Duration,
}

/// With a short lease a log that is only slow must still get to its answer.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(5);

impl UnnamedLogSource {
    /// Reads as this consumer. Sources of the same consumer share its progress, those of others do not meet.
    #[must_use]
    pub fn consumer(self, consumer: ConsumerName) -> LogSourceBuilder {
        let settings = Settings {
            consumer,
            claim: Claim::All,
            start_at: StartAt::default(),
            batch: 500,
            lease: Duration::from_secs(12),
            poll: Duration::from_secs(1),
        };
        LogSourceBuilder { log: self.0, settings }
    }
}

impl LogSourceBuilder {
    /// Shares the consumer's lanes with the other sources of it: each lane is a partition, see *Shared lanes* in
    /// [`LogSource`]. Default: one source has all lanes, as one partition, and the others stand by.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.settings.claim = Claim::Share;
        self
    }

    /// Where a consumer begins that the log does not know yet. Default: [`StartAt::Beginning`].
    #[must_use]
    pub fn start_at(mut self, start_at: StartAt) -> Self {
        self.settings.start_at = start_at;
        self
    }

    /// The most events in one batch, and about how many the log is asked for at once; at least 1, 500 by default.
    #[must_use]
    pub fn batch(mut self, events: usize) -> Self {
        self.settings.batch = events.max(1);
        self
    }

    /// For how long after this process died the others wait; at least 10 ms, 12 s by default. Renewed every 2/5 of it;
    /// that is also how long a source that shares lanes takes to notice that another came or left. What the log does not
    /// answer within as long, or within 5 s where that is longer, is given up as
    /// [`Unavailable`](crate::source::SourceErrorKind::Unavailable) and asked again, also when `next` is dropped meanwhile.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(Duration::from_millis(10));
        self
    }

    /// The longest pause between two looks for new events; at least 1 ms, 1 s by default.
    #[must_use]
    pub fn poll(mut self, longest: Duration) -> Self {
        self.settings.poll = longest.max(Duration::from_millis(1));
        self
    }

    /// The source. Nothing is sent to the log yet.
    #[must_use]
    pub fn build(self) -> LogSource {
        LogSource {
            bell: self.log.wake().listen(),
            log: self.log,
            settings: self.settings,
            member: MemberId::random(),
            state: State::New(None),
            pauses: Pauses::default(),
            is_in_doubt: false,
        }
    }
}

impl Settings {
    /// How long the log may take over an answer.
    pub(super) fn patience(&self) -> Duration {
        self.lease.max(SHORTEST_PATIENCE)
    }

    pub(super) fn is_shared(&self) -> bool {
        self.claim == Claim::Share
    }
}
