//! Random histories, compared with every first delivery in order.

use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, ProjectionErrorKind},
    testing::{Sequencer, number_of},
};
use outbox_projector::sql::Handler;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{Bed, Database, ReadModel, apply, effects, on_every_database};
use crate::sql::{
    handler::Trouble,
    model::{Model, foreign, received},
};

on_every_database!(any_duplicates_and_failures_give_each_effect_once);

const PARTITIONS: usize = 3;

/// In each round every partition has a step, applied at the same time as the others. First deliveries of a key come in
/// order and in its partition. Every event comes up to three times more: in its own partition at any later moment, or
/// after a rebalance at the end of any partition of a later round. Handlers fail after they wrote.
async fn any_duplicates_and_failures_give_each_effect_once<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let seed = std::env::var("OUTBOX_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("OUTBOX_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let log = Sequencer::default();
    let firsts: Vec<(usize, ReceivedEvent)> = (0..150)
        .map(|n| {
            let key = random.random_range(0..8);
            let event = if key == 7 { foreign("7", n) } else { received(&log, &key.to_string(), n) };
            (key % PARTITIONS, event)
        })
        .collect();

    let mut rest = firsts.as_slice();
    let mut known: Vec<(usize, ReceivedEvent)> = Vec::new();
    let mut counted = Applied::default();
    let mut deliveries = 0;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(random.random_range(1..=rest.len().min(30)));
        rest = later;
        let steps: [Vec<ReceivedEvent>; PARTITIONS] =
            std::array::from_fn(|partition| step(partition, now, &known, &mut random));
        known.extend_from_slice(now);
        deliveries += steps.iter().map(Vec::len).sum::<usize>();
        let troubles: [bool; PARTITIONS] = std::array::from_fn(|_| random.random_bool(0.3));
        let keys = random.random_range(1..4);
        let all = steps.iter().zip(troubles).map(|(step, trouble)| run(database, step, trouble, keys));
        let [one, two, three] = <[_; PARTITIONS]>::try_from(all.collect::<Vec<_>>()).ok().expect("one each");
        let (one, two, three) = tokio::join!(one, two, three);
        for applied in [one, two, three] {
            counted += applied;
        }
    }
    assert_eq!(database.model().await, Model::of(firsts.iter().map(|(_, event)| event)), "OUTBOX_TEST_SEED={seed}");
    assert!(counted.applied <= firsts.len() && counted.applied + counted.duplicates == deliveries, "{counted:?}");
    assert_eq!(database.count("projector_inbox").await, firsts.len() as i64);
}

/// What a partition has in this round.
fn step(
    partition: usize,
    now: &[(usize, ReceivedEvent)],
    known: &[(usize, ReceivedEvent)],
    random: &mut StdRng,
) -> Vec<ReceivedEvent> {
    let mut step: Vec<ReceivedEvent> = Vec::new();
    for (_, event) in now.iter().filter(|(own, _)| *own == partition) {
        step.push(event.clone());
        for _ in 0..random.random_range(0..=1) {
            let again = step[random.random_range(0..step.len())].clone();
            step.push(again);
        }
    }
    let mut moved: Vec<_> = known.iter().filter(|_| random.random_bool(0.15)).map(|(_, event)| event.clone()).collect();
    moved.shuffle(random);
    step.extend(moved);
    step
}

/// Applies a step until it succeeds, as a runner does.
async fn run<DB: Bed>(database: &Database<DB>, step: &[ReceivedEvent], trouble: bool, keys: usize) -> Applied
where
    ReadModel: Handler<DB>,
{
    let handler = match step.get(step.len() / 2) {
        Some(received) if trouble => {
            ReadModel::with(number_of(&received.event).expect("a number") as i64, Trouble::FailOnce)
        }
        _ => ReadModel::default(),
    };
    let projection = effects(database, handler, keys);
    match apply(&projection, step).await {
        Ok(applied) => applied,
        Err(error) => {
            assert_eq!(error.kind(), ProjectionErrorKind::Failed, "{error}");
            apply(&projection, step).await.expect("the second try succeeds")
        }
    }
}
