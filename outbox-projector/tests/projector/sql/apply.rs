//! What one step after the other does to the read model.

use std::sync::atomic::Ordering;

use outbox_core::{
    event::{NewEvent, ReceivedEvent},
    projection::{Applied, Projection, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
    testing::Sequencer,
};
use outbox_projector::sql::{Handler, ProjectionName, SqlProjection};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{
    Database, ReadModel,
    database::TestDatabase,
    handler::Trouble,
    model::{Model, foreign, received},
    on_every_database,
};

on_every_database!(
    any_duplicates_and_crashes_give_the_model,
    foreign_events_are_told_apart_by_id,
    a_versioned_projection_keeps_no_watermarks,
    a_second_projection_has_its_own_watermarks,
    without_tables_it_says_what_to_do,
    tables_of_an_earlier_version_are_told_from_an_outage,
);

/// Moves a partition as a runner does: the position is read again after whatever went wrong.
pub(super) async fn apply<DB: TestDatabase>(
    projection: &SqlProjection<DB>,
    partition: &str,
    to: &str,
    events: &[ReceivedEvent],
) -> Result<Applied, ProjectionError> {
    let (partition, to) = (Partition::new(partition), SourcePosition::from_text(to));
    let from = projection.position(&partition).await?;
    projection.apply(Step::new(&partition, from.as_ref(), &to, events)).await
}

/// Every event up to four times, the repetitions at any later place and so also behind newer ones of its key, in steps
/// of any size, with handlers that fail after they wrote: the read model is that of every event once.
async fn any_duplicates_and_crashes_give_the_model<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let seed = std::env::var("OUTBOX_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("OUTBOX_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let log = Sequencer::default();
    let events: Vec<ReceivedEvent> = (0..400)
        .map(|n| match random.random_range(0..10) {
            0 => foreign(&format!("foreign-{n}"), n),
            key => received(&log, &format!("key-{}", key % 4), n),
        })
        .collect();
    let stream = with_duplicates(&events, &mut random);
    let mut handler = ReadModel::default();
    let mut rest = stream.as_slice();
    let mut place = 0;
    while !rest.is_empty() {
        let (step, later) = rest.split_at(random.random_range(1..=rest.len().min(40)));
        if random.random_bool(0.2) {
            let number = outbox_core::testing::number_of(&step[step.len() / 2].event).expect("a number");
            handler = ReadModel::with(number as i64, Trouble::FailOnce);
        }
        place += 1;
        let projection = database.projection(handler.clone());
        let mut applied = apply(&projection, "p", &place.to_string(), step).await;
        if let Err(error) = &applied {
            assert_eq!(error.kind(), ProjectionErrorKind::Failed, "{error}");
            applied = apply(&projection, "p", &place.to_string(), step).await;
        }
        let applied = applied.expect("the second try succeeds");
        assert_eq!(applied.applied + applied.duplicates, step.len());
        rest = later;
    }
    assert_eq!(database.model().await, Model::of(&events), "OUTBOX_TEST_SEED={seed}");
}

/// Each event, and zero to three repetitions of it at random later places.
fn with_duplicates(events: &[ReceivedEvent], random: &mut StdRng) -> Vec<ReceivedEvent> {
    let mut placed: Vec<(usize, u8, &ReceivedEvent)> = Vec::new();
    for (place, event) in events.iter().enumerate() {
        placed.push((place, 0, event));
        for _ in 0..random.random_range(0..=3) {
            let near = (place + 8).min(events.len());
            let later = if random.random_bool(0.5) { near } else { events.len() };
            placed.push((random.random_range(place..=later), 1, event));
        }
    }
    placed.shuffle(random);
    placed.sort_by_key(|(place, repetition, _)| (*place, *repetition));
    placed.into_iter().map(|(_, _, event)| event.clone()).collect()
}

async fn foreign_events_are_told_apart_by_id<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let projection = database.projection(ReadModel::default());
    let (one, two) = (foreign("a", 1), foreign("a", 2));
    let first = apply(&projection, "p", "1", &[one.clone(), one.clone(), two.clone()]).await.expect("apply");
    assert_eq!((first.applied, first.duplicates), (2, 1));
    let again = apply(&projection, "p", "2", &[two, one, foreign("a", 3)]).await.expect("apply");
    assert_eq!((again.applied, again.duplicates), (1, 2));
    assert_eq!(database.model().await.list("a"), [1, 2, 3]);
    assert_eq!((database.count("projector_seen").await, database.count("projector_watermark").await), (3, 0));
}

async fn a_versioned_projection_keeps_no_watermarks<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let handler = ReadModel::default();
    let name = ProjectionName::parse("versioned").expect("name");
    let projection = SqlProjection::builder(database.pool.clone(), name, handler.clone()).versioned().build();
    let log = Sequencer::default();
    let event = received(&log, "a", 1);
    for place in ["1", "2"] {
        let applied = apply(&projection, "p", place, std::slice::from_ref(&event)).await.expect("apply");
        assert_eq!(applied.applied, 1, "the handler decides by its version");
    }
    assert_eq!(handler.script.calls.load(Ordering::Relaxed), 2);
    assert_eq!(database.count("projector_watermark").await, 0);
    assert_eq!(database.count("projector_position").await, 1);
}

async fn a_second_projection_has_its_own_watermarks<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let ignored = NewEvent::tombstone("Suite", "a", "Unknown").expect("event");
    let events = [received(&log, "a", 1), log.receive(ignored), received(&log, "b", 2)];
    for name in ["one", "two"] {
        let name = ProjectionName::parse(name).expect("name");
        let projection = SqlProjection::builder(database.pool.clone(), name, ReadModel::default()).build();
        let applied = apply(&projection, "p", "1", &events).await.expect("apply");
        assert_eq!((applied.applied, applied.ignored, applied.duplicates), (2, 1, 0));
        let again = apply(&projection, "p", "2", &events).await.expect("apply");
        assert_eq!(again.duplicates, 3, "what was ignored moved the watermark as well");
    }
    assert_eq!(database.count("projector_watermark").await, 4);
}

async fn without_tables_it_says_what_to_do<DB: TestDatabase>(_: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let bare = super::database::unmigrated::<DB>().await;
    let projection = bare.projection(ReadModel::default());
    let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
    let position = projection.position(&partition).await.expect_err("no tables");
    let step = Step::new(&partition, None, &to, &[]);
    let applied = projection.apply(step).await.expect_err("no tables");
    for error in [position, applied] {
        assert_eq!(error.kind(), ProjectionErrorKind::NotMigrated, "{error}");
        assert!(error.to_string().contains("migrate"), "{error}");
    }
    bare.tear_down().await;
}

async fn tables_of_an_earlier_version_are_told_from_an_outage<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let projection = database.projection(ReadModel::default());
    DB::drop_column(&database.pool, "projector_watermark", "previous").await;
    let events = [received(&Sequencer::default(), "a", 1)];
    let error = apply(&projection, "p", "1", &events).await.expect_err("an older table");
    assert_eq!(error.kind(), ProjectionErrorKind::NotMigrated, "{error}");
}
