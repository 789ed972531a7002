//! Random rejects that later pass, replays at random moments, duplicates at random places.

use std::collections::BTreeSet;

use outbox_core::{event::ReceivedEvent, projection::DeadLetter, source::Partition, testing::Sequencer};
use outbox_projector::sql::{BlockedKeys, Handler, Letters, SqlProjection};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{keeping, list, rejected, replay, step};
use crate::sql::{
    Database, ReadModel,
    database::TestDatabase,
    handler::Trouble,
    model::{Model, foreign, received},
    on_every_database,
};

on_every_database!(with_held_keys_the_read_model_is_exactly_the_model, with_passing_keys_every_event_has_one_effect);

pub(super) async fn with_held_keys_the_read_model_is_exactly_the_model<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (events, seed) = history(database, BlockedKeys::Hold).await;
    assert_eq!(database.model().await, Model::of(&events), "OUTBOX_TEST_SEED={seed}");
}

async fn with_passing_keys_every_event_has_one_effect<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (events, seed) = history(database, BlockedKeys::Pass).await;
    let (mut found, mut expected) = (database.model().await, Model::of(&events));
    for row in found.0.values_mut().chain(expected.0.values_mut()) {
        row.list.sort_unstable();
        row.last = 0;
    }
    assert_eq!(found, expected, "OUTBOX_TEST_SEED={seed}");
}

/// All events that were written, once every letter was replayed.
async fn history<DB: TestDatabase>(database: &Database<DB>, keys: BlockedKeys) -> (Vec<ReceivedEvent>, u64)
where
    ReadModel: Handler<DB>,
{
    let seed = std::env::var("OUTBOX_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("OUTBOX_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let log = Sequencer::default();
    // Those without a sequence have keys of their own: nothing orders them.
    let events: Vec<ReceivedEvent> = (0..300)
        .map(|n| match random.random_range(0..10) {
            0 => foreign(&format!("foreign-{n}"), n),
            key => received(&log, &format!("key-{}", key % 3), n),
        })
        .collect();
    let handler = ReadModel::default();
    let projection = keeping(database, keys, &handler);
    let (mut next, mut place) = (0, 0);
    while next < events.len() {
        let end = (next + random.random_range(1..=20)).min(events.len());
        let mut batch = events[next..end].to_vec();
        for _ in 0..random.random_range(0..4) {
            // A repetition stands at any place behind what it repeats.
            let again = random.random_range(0..end);
            let first = batch.iter().position(|received| received.event.id == events[again].event.id);
            let at = random.random_range(first.map_or(0, |first| first + 1)..=batch.len());
            batch.insert(at, events[again].clone());
        }
        let bad: BTreeSet<usize> = (0..random.random_range(0..3)).map(|_| random.random_range(next..end)).collect();
        for n in bad {
            let trouble = if random.random_bool(0.5) { Trouble::Reject } else { Trouble::Constraint };
            handler.trouble(n as i64, trouble);
        }
        place += 1;
        apply(&projection, &place.to_string(), batch).await;
        if random.random_bool(0.3) {
            handler.mend();
        }
        if random.random_bool(0.3) {
            let which = list(&projection).await;
            let one = which.get(random.random_range(0..which.len().max(1))).map(|letter| Letters::Id(letter.id));
            let which = if random.random_bool(0.5) { Letters::All } else { one.unwrap_or(Letters::All) };
            replay(&projection, which).await;
        }
        next = end;
    }
    handler.mend();
    replay(&projection, Letters::All).await;
    assert_eq!(list(&projection).await, [], "OUTBOX_TEST_SEED={seed}");
    (events, seed)
}

/// As a projector does, without retries: what fails is given up.
async fn apply<DB: TestDatabase>(projection: &SqlProjection<DB>, to: &str, mut batch: Vec<ReceivedEvent>) {
    let mut letters: Vec<DeadLetter> = Vec::new();
    loop {
        let Err(error) = step(projection, to, &batch, &letters).await else { return };
        assert!(error.kind().blames_an_event(), "{error}");
        let event = batch.remove(error.event().expect("which event"));
        letters.push(match event.origin {
            Some(_) => rejected(&event),
            None => DeadLetter::rejected(&Partition::new("p"), event, None, "it is bad", 1),
        });
    }
}
