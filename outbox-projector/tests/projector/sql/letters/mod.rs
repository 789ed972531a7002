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

use bytes::Bytes;
use outbox_core::{
    event::ReceivedEvent,
    profile::{Encoder, SeedEnvelope},
    projection::{Applied, DeadLetter, Projection, ProjectionError, Step},
    source::{Partition, RawRecord, SourcePosition},
};
use outbox_projector::sql::{
    BlockedKeys, Handler, KeptLetter, LetterFilter, Letters, ProjectionName, Replay, ReplayReport, Series,
    SqlProjection,
};

use super::{Database, ReadModel, database::TestDatabase};

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

/// An event that was given up, with the record that it was decoded from.
fn rejected(received: &ReceivedEvent) -> DeadLetter {
    DeadLetter::rejected(&Partition::new("p"), received.clone(), Some(record(received)), "it is bad", 3)
}

/// As the default encoder writes the event.
fn record(received: &ReceivedEvent) -> RawRecord {
    let lane = outbox_core::event::LaneCount::default().lane_of(&received.event.lane_key());
    let recorded = outbox_core::event::RecordedEvent {
        origin: received.origin.expect("an event of a log"),
        lane,
        event: received.event.clone(),
    };
    let encoded = SeedEnvelope.encode(&recorded).expect("encoded");
    let key = Some(Bytes::from(received.event.message_key().to_owned()));
    let offset = recorded.origin.sequence.position();
    RawRecord { offset, key, payload: encoded.payload, headers: encoded.headers }
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
