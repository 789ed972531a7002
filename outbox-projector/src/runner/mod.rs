//! The loop between a source and a projection.

mod error;
mod status;
mod turns;
mod work;
mod worker;

use std::{collections::BTreeMap, future::Future, pin::pin, sync::Arc, time::Duration};

use outbox_core::{
    projection::Projection,
    retry::Backoff,
    source::{EventSource, Partition, SourceError, SourceEvent},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

pub use error::{ProjectorError, ProjectorErrorKind};
pub use status::{PartitionState, PartitionStatus, ProjectorStatus};
use worker::Worker;

/// Feeds the events of a source to a projection, for as long as it runs.
///
/// Each partition starts at the position that the projection keeps, or else at the source's own commit. A batch is
/// applied as one step. The source is told to commit only after the effect: at once when the projection keeps no
/// position; every second or 100 batches when it does, since then the commit only lets retention move on.
///
/// | The projection says | Then |
/// |---|---|
/// | unavailable | the same step is tried again, see [`ProjectorBuilder::retry`]; other partitions go on |
/// | conflict | the position is read again and the partition goes on there |
/// | rejected | as unavailable, and the status shows it: nothing is skipped, somebody has to act |
/// | not migrated | [`Projector::run`] ends |
pub struct Projector {
    source: Box<dyn EventSource>,
    projection: Arc<dyn Projection>,
    settings: Settings,
    workers: BTreeMap<Partition, Worker>,
    status: watch::Sender<ProjectorStatus>,
}

/// Settings of a [`Projector`].
pub struct ProjectorBuilder {
    source: Box<dyn EventSource>,
    projection: Arc<dyn Projection>,
    settings: Settings,
}

struct Settings {
    retry: Backoff,
    undecodables: Undecodables,
    grace: Duration,
}

/// What happens to a record that is no event this consumer can decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Undecodables {
    /// Its partition waits, with everything before it applied and nothing behind it, until somebody acts: deploys a
    /// decoder that knows it, or runs with [`Undecodables::Skip`]. Other partitions go on.
    #[default]
    Hold,
    /// It is counted, a warning is written, and it is passed over.
    Skip,
}

impl Projector {
    /// A projector of this source's events into this projection.
    #[must_use]
    pub fn builder(source: impl EventSource + 'static, projection: Arc<dyn Projection>) -> ProjectorBuilder {
        let settings = Settings {
            retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(30)),
            undecodables: Undecodables::default(),
            grace: Duration::from_secs(10),
        };
        ProjectorBuilder { source: Box::new(source), projection, settings }
    }

    /// What it is doing, as it changes. Take it before [`Projector::run`].
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ProjectorStatus> {
        self.status.subscribe()
    }

    /// Runs until `shutdown` completes: then the step at hand is finished, positions are committed and the source is
    /// closed, all within [`ProjectorBuilder::grace`]. A wait between two tries ends at once. What could not be
    /// finished comes again.
    ///
    /// Dropping the future instead loses nothing either, but the source's partitions stay with it until its lease or
    /// session ends.
    ///
    /// # Errors
    /// [`ProjectorError`] for what does not pass by itself, see [`ProjectorErrorKind`]. The source is closed then too.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), ProjectorError> {
        let mut shutdown = pin!(shutdown);
        let grace = self.settings.grace;
        let (result, deadline) = loop {
            let due = self.workers.values().filter_map(Worker::due).min();
            let turn = tokio::select! {
                biased;
                () = &mut shutdown => break (Ok(()), Instant::now() + grace),
                () = reached(due) => Turn::Due,
                event = self.source.next() => Turn::Source(event),
            };
            let mut step = pin!(self.take(turn));
            let stopped = tokio::select! {
                biased;
                result = &mut step => result.map(|()| None),
                () = &mut shutdown => {
                    let deadline = Instant::now() + grace;
                    timeout_at(deadline, step).await.unwrap_or(Ok(())).map(|()| Some(deadline))
                }
            };
            match stopped {
                Ok(None) => {}
                Ok(Some(deadline)) => break (Ok(()), deadline),
                Err(error) => break (Err(error), Instant::now() + grace),
            }
        };
        if timeout_at(deadline, self.finish()).await.is_err() {
            tracing::warn!("the source did not answer in time; what was not committed comes again");
        }
        result
    }
}

impl ProjectorBuilder {
    /// How long to wait between tries, without end: giving up would lose an event. Default: 100 ms doubling to 30 s.
    #[must_use]
    pub fn retry(mut self, backoff: Backoff) -> Self {
        self.settings.retry = backoff;
        self
    }

    /// What to do with records that cannot be decoded. Default: [`Undecodables::Hold`].
    #[must_use]
    pub fn undecodable(mut self, undecodables: Undecodables) -> Self {
        self.settings.undecodables = undecodables;
        self
    }

    /// How long a shutdown may take before the step at hand is dropped. Default: 10 s.
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
            workers: BTreeMap::new(),
            status: watch::Sender::new(ProjectorStatus::default()),
        }
    }
}

enum Turn {
    Due,
    Source(Result<SourceEvent, SourceError>),
}

async fn reached(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
