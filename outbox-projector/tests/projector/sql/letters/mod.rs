//! Dead letters of SQL projections.

mod conformance;
mod discarding;
mod elsewhere;
mod holding;
#[cfg(feature = "postgres")]
mod on_postgres;
mod passing;
mod poison;
mod random;
mod replaying;
mod stepping;
mod undecodable;

use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, DeadLetter, Projection, ProjectionError, Step},
    source::{Partition, SourcePosition},
};
use outbox_projector::sql::{
    BlockedKeys, Handler, KeptLetter, LetterFilter, Letters, ProjectionName, Replay, ReplayReport, Series,
    SqlProjection,
};

use super::{Database, ReadModel, database::TestDatabase};
use crate::support::{record, rejected};

/// A projection that keeps its dead letters.
fn keeping<DB: TestDatabase>(database: &Database<DB>, keys: BlockedKeys, handler: &ReadModel) -> SqlProjection<DB>
where
    ReadModel: Handler<DB>,
{
    let name = ProjectionName::parse("model").expect("name");
    SqlProjection::builder(database.pool.clone(), name, handler.clone()).dead_letters(keys).build()
}

/// One step of partition `p`, from wherever it stands.
async fn step<DB: TestDatabase>(
    projection: &SqlProjection<DB>,
    to: &str,
    events: &[ReceivedEvent],
    letters: &[DeadLetter],
) -> Result<Applied, ProjectionError> {
    let (partition, to) = (Partition::new("p"), SourcePosition::from_text(to));
    let from = projection.position(&partition).await?;
    projection.apply(Step::new(&partition, from.as_ref(), &to, events).with_dead_letters(letters)).await
}

async fn list<DB: TestDatabase>(projection: &SqlProjection<DB>) -> Vec<KeptLetter> {
    projection.dead_letters().list(&LetterFilter::default(), 1_000).await.expect("list")
}

async fn replay<DB: TestDatabase>(projection: &SqlProjection<DB>, which: Letters) -> ReplayReport {
    projection.dead_letters().replay(&Replay::of(which)).await.expect("replay")
}

fn key_of(received: &ReceivedEvent) -> Letters {
    Letters::Key(Series::of_received(received))
}

/// Applied and left.
fn counts(report: &ReplayReport) -> (usize, usize) {
    (report.totals().applied, report.left())
}
