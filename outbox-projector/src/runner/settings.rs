use std::{num::NonZeroU32, sync::Arc, time::Duration};

use outbox_core::{projection::Projection, retry::Backoff, source::EventSource};
use tokio::sync::watch;

use super::{Projector, ProjectorStatus};
use crate::dead_letters::DeadLetters;

/// Settings of a [`Projector`].
pub struct ProjectorBuilder {
    source: Box<dyn EventSource>,
    projection: Arc<dyn Projection>,
    settings: Settings,
}

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) retry: Backoff,
    pub(super) attempts: u32,
    pub(super) undecodables: Undecodables,
    pub(super) dead_letters: Option<Arc<dyn DeadLetters>>,
    pub(super) lost_position: LostPosition,
    pub(super) batch: usize,
    pub(super) batch_wait: Duration,
    pub(super) lag_every: Duration,
    pub(super) grace: Duration,
}

/// What happens to a record that is no event this consumer can decode, where nothing keeps dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Undecodables {
    /// Its partition waits, with everything before it applied and nothing behind it, until somebody acts: deploys a
    /// decoder that knows it, or runs with dead letters or [`Undecodables::Skip`]. Other partitions go on.
    #[default]
    Hold,
    /// It is counted, a warning is written, and it is passed over. Takes precedence over dead letters.
    Skip,
}

/// What happens when the source does not know the kept position any more, because its topic was created again, lost its
/// end or was overtaken by retention; see
/// [`SourceErrorKind::is_lost_position`](outbox_core::source::SourceErrorKind::is_lost_position).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LostPosition {
    /// [`Projector::run`] ends: somebody has to decide.
    #[default]
    Fail,
    /// The partition is read from its oldest record. What took effect before is known by its sequence or id, and has no
    /// effect again; what retention took unread is missing, and a warning says so.
    Rewind,
}

impl Projector {
    /// A projector of this source's events into this projection.
    #[must_use]
    pub fn builder(source: impl EventSource + 'static, projection: Arc<dyn Projection>) -> ProjectorBuilder {
        let settings = Settings {
            retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(30)),
            attempts: 10,
            undecodables: Undecodables::default(),
            dead_letters: None,
            lost_position: LostPosition::default(),
            batch: 1_000,
            batch_wait: Duration::ZERO,
            lag_every: Duration::from_secs(5),
            grace: Duration::from_secs(10),
        };
        ProjectorBuilder { source: Box::new(source), projection, settings }
    }
}

impl ProjectorBuilder {
    /// How long to wait between tries. There is no end to them while the store is away. Default: 100 ms doubling to
    /// 30 s, with full jitter.
    #[must_use]
    pub fn retry(mut self, backoff: Backoff) -> Self {
        self.settings.retry = backoff;
        self
    }

    /// How often an event that [fails](outbox_core::projection::ProjectionErrorKind::Failed) is tried before it becomes
    /// a dead letter, the first included; one that is rejected becomes one at once. Without a place for dead letters
    /// both are tried for ever. Default: 10.
    #[must_use]
    pub fn attempts(mut self, attempts: NonZeroU32) -> Self {
        self.settings.attempts = attempts.get();
        self
    }

    /// Where dead letters go that the projection does not keep itself. Default: nowhere, so the partition waits.
    #[must_use]
    pub fn dead_letters(mut self, dead_letters: Arc<dyn DeadLetters>) -> Self {
        self.settings.dead_letters = Some(dead_letters);
        self
    }

    /// What to do with records that cannot be decoded. Default: [`Undecodables::Hold`].
    #[must_use]
    pub fn undecodable(mut self, undecodables: Undecodables) -> Self {
        self.settings.undecodables = undecodables;
        self
    }

    /// What to do when the source does not know the kept position any more. Default: [`LostPosition::Fail`].
    #[must_use]
    pub fn lost_position(mut self, rule: LostPosition) -> Self {
        self.settings.lost_position = rule;
        self
    }

    /// About how many events one step has at most: what the source delivers is joined up to here, and not cut. At least
    /// 1, 1,000 by default. Twice as many wait in memory per partition.
    #[must_use]
    pub fn batch(mut self, events: usize) -> Self {
        self.settings.batch = events.max(1);
        self
    }

    /// For how long a step that is not full waits for more. Default: not at all, for the least delay; with a store
    /// that takes long for each write, a few milliseconds let steps grow.
    #[must_use]
    pub fn batch_wait(mut self, longest: Duration) -> Self {
        self.settings.batch_wait = longest;
        self
    }

    /// How often the source is asked how many records of a partition are still to come. At least 10 ms, 5 s by default.
    ///
    /// Partitions take turns, and nothing is delivered or committed while the source is asked: an answer may take a
    /// second, and at most a tenth of the time goes into asking. So with many partitions and a slow broker it takes
    /// longer until all have had their turn.
    #[must_use]
    pub fn lag_every(mut self, interval: Duration) -> Self {
        self.settings.lag_every = interval.max(Duration::from_millis(10));
        self
    }

    /// How long a shutdown may take before the steps at hand are dropped. Default: 10 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// The projector. Nothing happens before [`Projector::run`].
    #[must_use]
    pub fn build(self) -> Projector {
        Projector {
            source: self.source,
            projection: self.projection,
            settings: self.settings,
            status: watch::Sender::new(ProjectorStatus::default()),
        }
    }
}
