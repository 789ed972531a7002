//! Two operators rebuild one read model.

use std::time::Duration;

use outbox_core::log::{EventLog as _, StartAt};
use outbox_projector::rebuild::RebuildError;
use uuid::Uuid;

use super::*;

const LONG: Duration = Duration::from_hours(1);

fn kind<T: std::fmt::Debug>(result: Result<T, RebuildError>) -> RebuildErrorKind {
    result.expect_err("refused").kind()
}

/// The second is told at once, disturbs nothing, and may go on when the first was stopped.
async fn of_two_rebuilds_one_is_refused<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    const EVENTS: i64 = 100;
    let scene = Scene::new(database);
    let elsewhere = Scene { log: scene.log.clone(), sources: scene.sources.clone(), ..Scene::new(database) };
    scene.write(0..EVENTS).await;
    scene.generations.prepare(Generation::FIRST).await.expect("prepare");
    // The first one does not get to its end.
    let consumer = ConsumerName::parse("sums.g2").expect("name");
    scene.log.register(&consumer, StartAt::Beginning).await.expect("register");
    scene.log.set_paused(&consumer, true).await.expect("pause");

    let first = scene.rebuild();
    let mut status = first.status();
    let (stop, stopped) = oneshot::channel::<()>();
    let first = tokio::spawn(first.run(async {
        let _stop = stopped.await;
    }));
    within("it builds", status.wait_for(|s| s.phase == RebuildPhase::Building)).await.expect("it runs");
    for rebuild in [elsewhere.rebuild(), elsewhere.rebuild().afresh(), scene.rebuild()] {
        let refused = within("an answer", rebuild.run(std::future::pending())).await;
        assert_eq!(kind(refused), RebuildErrorKind::Busy);
    }
    let state = scene.generations.state().await.expect("state");
    assert_eq!((state.live, state.building), (Generation::FIRST, Generation::new(2)));
    stop.send(()).expect("it runs");
    assert_eq!(kind(within("the end", first).await.expect("no panic")), RebuildErrorKind::Stopped);

    scene.log.set_paused(&consumer, false).await.expect("go on");
    let second = within("the rebuild", elsewhere.rebuild().swap_within(0).run(std::future::pending())).await;
    assert_eq!(Some(second.expect("rebuild")), Generation::new(2), "the one that was begun");
    assert_eq!(DB::seen(&scene.pool).await, (KEYS, (0..EVENTS).sum::<i64>(), EVENTS));
    assert_eq!(DB::count(&database.pool, "projector_rebuild").await, 0);
}

/// A process that was frozen until others took it for dead neither swaps nor drops what they build, and they do not
/// wait for it.
async fn a_claim_that_ended_is_worth_nothing<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    let scene = Scene::new(database);
    let elsewhere = Scene::new(database);
    let (frozen, other) = (&scene.generations, &elsewhere.generations);
    let second = Generation::FIRST.next();
    let (it, they) = (Uuid::now_v7(), Uuid::now_v7());
    frozen.claim(it, LONG).await.expect("claim");
    assert_eq!(kind(other.claim(they, LONG).await), RebuildErrorKind::Busy);
    for generation in [Generation::FIRST, second] {
        frozen.prepare(generation).await.expect("prepare");
    }
    frozen.claim(it, Duration::ZERO).await.expect("once more, up to now");

    other.claim(they, LONG).await.expect("nobody renews it");
    assert_eq!(kind(frozen.claim(it, LONG).await), RebuildErrorKind::Busy);
    assert_eq!(kind(frozen.swap(second).await), RebuildErrorKind::Busy);
    assert_eq!(kind(frozen.discard(second).await), RebuildErrorKind::Busy);
    frozen.release(it).await.expect("nothing to release");
    assert_eq!(kind(scene.rebuild().run(std::future::pending()).await), RebuildErrorKind::Busy);
    let state = other.state().await.expect("state");
    assert_eq!((state.live, state.building), (Generation::FIRST, Some(second)));
    other.swap(second).await.expect("swap");
    other.discard(Generation::FIRST).await.expect("discard");
    other.release(they).await.expect("release");
    assert_eq!(DB::count(&database.pool, "projector_rebuild").await, 0);
}

on_every_database!(of_two_rebuilds_one_is_refused, a_claim_that_ended_is_worth_nothing);
