//! What is left when a generation is prepared, swapped and discarded, whole or in part.

use super::*;

/// Wherever a discard ends, nobody goes on with what it left, under that number or another, and what is left goes when
/// another generation is live.
async fn a_discard_that_was_interrupted_leaves_nothing_behind<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    let scene = Scene::new(database);
    let generations = &scene.generations;
    let (mut generation, rebuild) = scene.two_generations().await;
    let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
    let events = [received(&Sequencer::default(), "key", 1)];
    let (mut wakes, mut is_done, mut half) = (0, false, 0);
    while !is_done {
        let projection = generations.projection(generation, Stage::Building);
        projection.apply(Step::new(&partition, None, &to, &events)).await.expect("apply");
        is_done = is_done_within(wakes, generations.discard(generation, rebuild)).await;
        wakes += 1;
        // A commit that nobody waits for any more may still be under way: this waits for its end.
        generations.prepare(Generation::FIRST, Some(rebuild)).await.expect("prepare");
        let state = generations.state().await.expect("state");
        assert_eq!(state.next, generation.next());
        let position = projection.position(&partition).await;
        if state.building.is_some() {
            assert_eq!(position.expect("as it was"), Some(to.clone()));
        } else {
            half += usize::from(!is_done && position.is_err_and(|error| error.kind() == ProjectionErrorKind::Retired));
            let again = generations.prepare(generation, Some(rebuild)).await.expect_err("it was used");
            assert_eq!(again.kind(), RebuildErrorKind::Unavailable, "whoever looks again finds another");
        }
        generation = state.next;
        assert_eq!(generations.prepare(generation, Some(rebuild)).await.expect("prepare"), Stage::Building);
        assert_eq!(generations.state().await.expect("state").building, Some(generation));
        if state.building.is_some() {
            let retired = projection.position(&partition).await.expect_err("another is built");
            assert_eq!(retired.kind(), ProjectionErrorKind::Retired);
        }
    }
    assert!(half > 0, "it was never dropped half-way");
    let projection = generations.projection(generation, Stage::Building);
    projection.apply(Step::new(&partition, None, &to, &events)).await.expect("apply");
    generations.swap(generation, rebuild).await.expect("swap");
    assert_eq!(DB::seen(&scene.pool).await, (1, 1, 1));
    let olds = generations.before(generation).await.expect("before");
    assert!(olds.len() > half, "the first one and what was interrupted: {olds:?}");
    for old in olds {
        generations.discard(old, rebuild).await.expect("discard");
    }
    assert!(generations.before(generation).await.expect("before").is_empty());
    for table in ["projector_position", "projector_watermark"] {
        assert_eq!(DB::count(&database.pool, table).await, 1, "{table}");
    }
    assert_eq!(DB::seen(&scene.pool).await, (1, 1, 1));
}

/// One that is live is not prepared again, nor discarded.
async fn a_generation_is_what_prepare_says<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    let scene = Scene::new(database);
    let generations = &scene.generations;
    let (second, rebuild) = scene.two_generations().await;
    assert_eq!(generations.prepare(Generation::FIRST, None).await.expect("prepare"), Stage::Live);
    assert_eq!(generations.prepare(second, Some(rebuild)).await.expect("prepare"), Stage::Building);
    generations.swap(second, rebuild).await.expect("swap");
    assert_eq!(generations.prepare(second, Some(rebuild)).await.expect("prepare"), Stage::Live);
    assert_eq!(generations.prepare(second, None).await.expect("prepare"), Stage::Live);
    generations.discard(second, rebuild).await.expect("nothing to discard");
    assert_eq!(generations.prepare(second, None).await.expect("prepare"), Stage::Live);
    assert_eq!(DB::seen(&scene.pool).await, (0, 0, 0));
}

/// More than one statement removes.
async fn everything_under_the_name_of_a_generation_goes<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    const EVENTS: i64 = 12_000;
    let scene = Scene::new(database);
    let (second, rebuild) = scene.two_generations().await;
    let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
    let log = Sequencer::default();
    let events: Vec<_> = (0..EVENTS).map(|n| received(&log, &format!("key-{n}"), n)).collect();
    for generation in [Generation::FIRST, second] {
        let projection = scene.generations.projection(generation, Stage::Building);
        projection.apply(Step::new(&partition, None, &to, &events)).await.expect("apply");
    }
    scene.generations.discard(second, rebuild).await.expect("discard");
    assert_eq!(DB::count(&database.pool, "projector_watermark").await, EVENTS, "those of the other");
    assert_eq!(DB::count(&database.pool, "projector_position").await, 1);
    assert_eq!(DB::seen(&scene.pool).await.2, EVENTS);
}

on_every_database!(
    a_discard_that_was_interrupted_leaves_nothing_behind,
    a_generation_is_what_prepare_says,
    everything_under_the_name_of_a_generation_goes,
);
