//! The loop between a source and a projection.

mod error;
mod guard;
mod lag;
mod meters;
mod report;
mod seat;
mod seats;
mod settings;
mod status;
mod work;
mod worker;

use std::{future::Future, pin::pin, sync::Arc};

use outbox_core::{projection::Projection, source::EventSource};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

pub use error::{ProjectorError, ProjectorErrorKind};
pub(crate) use guard::guarded;
use seats::Seats;
use settings::Settings;
pub use settings::{LostPosition, ProjectorBuilder, Undecodables};
pub use status::{PartitionState, PartitionStatus, ProjectorStatus};

/// Feeds the events of a source to a projection, for as long as it runs.
///
/// Each partition starts at the position that the projection keeps, or else at the source's own commit, and has a worker
/// of its own: partitions are applied side by side, the events of one in order. What the source delivers is joined to
/// steps of about [`ProjectorBuilder::batch`] events, and a step takes effect as a whole. A partition whose worker falls
/// behind is paused at the source, without dropping out of its group. The source is told to commit only after the
/// effect: at once when the projection keeps no position; every second or 100 steps when it does, since then the commit
/// only lets retention move on.
///
/// | The projection says | Then |
/// |---|---|
/// | unavailable | the same step is tried again without end, see [`ProjectorBuilder::retry`]; other partitions go on |
/// | conflict | the position is read again and the partition goes on there |
/// | failed, or it panics | tried again, [`ProjectorBuilder::attempts`] times; then as rejected |
/// | rejected | the event becomes a dead letter and the rest goes on; without a place for dead letters it is tried for ever, and the status shows it: nothing is skipped, somebody has to act |
/// | not migrated, retired | [`Projector::run`] ends |
///
/// An error that does not say which event is at fault costs one try of each event of the step by itself.
pub struct Projector {
    source: Box<dyn EventSource>,
    projection: Arc<dyn Projection>,
    settings: Settings,
    status: watch::Sender<ProjectorStatus>,
}

impl Projector {
    /// What it is doing, as it changes. Take it before [`Projector::run`].
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ProjectorStatus> {
        self.status.subscribe()
    }

    /// Runs until `shutdown` completes: then the steps at hand are finished, positions are committed and the source is
    /// closed, all within [`ProjectorBuilder::grace`]. A wait between two tries ends at once. What could not be
    /// finished comes again.
    ///
    /// Dropping the future instead loses nothing either, but the source's partitions stay with it until its lease or
    /// session ends.
    ///
    /// # Errors
    /// [`ProjectorError`] for what does not pass by itself, see [`ProjectorErrorKind`]. The source is closed then too.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ProjectorError> {
        let grace = self.settings.grace;
        let mut shutdown = pin!(shutdown);
        let mut seats = Seats::new(self);
        let (result, deadline) = loop {
            let (due, lag_at) = (seats.due(), seats.lag_at());
            let turn = tokio::select! {
                biased;
                () = &mut shutdown => break (Ok(()), Instant::now() + grace),
                Some(report) = seats.reports.recv() => Turn::Report(report),
                () = sleep_until(due.unwrap_or(lag_at)), if due.is_some() => Turn::Due,
                () = sleep_until(lag_at), if !seats.taken.is_empty() => Turn::Lag,
                event = seats.source.next() => Turn::Source(event),
            };
            let may_be_dropped = matches!(turn, Turn::Lag);
            let mut step = pin!(seats.take(turn));
            let stopped = tokio::select! {
                biased;
                result = &mut step => result.map(|()| None),
                () = &mut shutdown => {
                    let deadline = Instant::now() + grace;
                    let end = if may_be_dropped { Instant::now() } else { deadline };
                    timeout_at(end, step).await.unwrap_or(Ok(())).map(|()| Some(deadline))
                }
            };
            match stopped {
                Ok(None) => {}
                Ok(Some(deadline)) => break (Ok(()), deadline),
                Err(error) => break (Err(error), Instant::now() + grace),
            }
        };
        if timeout_at(deadline, seats.finish()).await.is_err() {
            tracing::warn!("not everything ended in time; what was not committed comes again");
        }
        let is_replaced = |error: &ProjectorError| error.kind() == ProjectorErrorKind::Retired;
        if result.as_ref().err().is_none_or(is_replaced) {
            seats.meters.ended();
        }
        result
    }
}

enum Turn {
    Due,
    Lag,
    Report(report::FromSeat),
    Source(Result<outbox_core::source::SourceEvent, outbox_core::source::SourceError>),
}
