//! Two operators rebuild one read model.

use outbox_core::log::{EventLog as _, StartAt};
use outbox_projector::rebuild::RebuildError;

use super::{
    super::{ReadModel, database::unmigrated},
    *,
};

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
    scene.generations.prepare(Generation::FIRST, None).await.expect("prepare");
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

/// A process that was frozen until others took it for dead neither creates, swaps nor drops what they build, and they do
/// not wait for it. Whether they are in another process makes no difference.
async fn a_claim_that_ended_is_worth_nothing<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    let (scene, elsewhere) = (Scene::new(database), Scene::new(database));
    let frozen = &scene.generations;
    let (second, it) = scene.two_generations().await;
    let third = second.next();
    for other in [&elsewhere.generations, frozen] {
        let they = Uuid::now_v7();
        assert_eq!(kind(other.claim(they, LONG).await), RebuildErrorKind::Busy);
        frozen.renew(it, Duration::ZERO).await.expect("once more, up to now");

        other.claim(they, LONG).await.expect("nobody renews it");
        assert_eq!(kind(frozen.claim(it, LONG).await), RebuildErrorKind::Busy);
        assert_eq!(kind(frozen.renew(it, LONG).await), RebuildErrorKind::Busy);
        assert_eq!(kind(frozen.prepare(third, Some(it)).await), RebuildErrorKind::Busy);
        assert_eq!(kind(frozen.swap(second, it).await), RebuildErrorKind::Busy);
        assert_eq!(kind(frozen.discard(second, it).await), RebuildErrorKind::Busy);
        frozen.release(it).await.expect("nothing to release");
        assert_eq!(kind(scene.rebuild().run(std::future::pending()).await), RebuildErrorKind::Busy);
        let state = other.state().await.expect("state");
        assert_eq!((state.live, state.building), (Generation::FIRST, Some(second)));

        other.release(they).await.expect("release");
        assert_eq!(kind(frozen.swap(second, it).await), RebuildErrorKind::Busy, "nobody has it");
        assert_eq!(kind(frozen.renew(it, LONG).await), RebuildErrorKind::Busy, "it lost what it had");
        frozen.claim(it, LONG).await.expect("nobody has it");
    }
    frozen.swap(second, it).await.expect("swap");
    frozen.discard(Generation::FIRST, it).await.expect("discard");
    frozen.release(it).await.expect("release");
    assert_eq!(DB::count(&database.pool, "projector_rebuild").await, 0);
}

/// One that ended is renewed while nobody else came. But whoever was there in between, and is gone, has swapped what this
/// one goes on to remove.
async fn a_renewal_does_not_pass_over_another_claim<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    let (scene, elsewhere) = (Scene::new(database), Scene::new(database).generations);
    let frozen = &scene.generations;
    let (second, it) = scene.two_generations().await;
    let they = Uuid::now_v7();
    let projection = frozen.projection(second, Stage::Building);
    let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
    let events = [received(&Sequencer::default(), "key", 1)];
    projection.apply(Step::new(&partition, None, &to, &events)).await.expect("apply");

    frozen.renew(it, Duration::ZERO).await.expect("up to now");
    frozen.renew(it, LONG).await.expect("nobody came");
    assert_eq!(kind(elsewhere.claim(they, LONG).await), RebuildErrorKind::Busy, "it counts anew");
    frozen.renew(it, Duration::ZERO).await.expect("up to now");
    elsewhere.claim(they, LONG).await.expect("nobody renews it");
    elsewhere.swap(second, they).await.expect("swap");
    elsewhere.release(they).await.expect("released");
    assert_eq!(kind(frozen.renew(it, LONG).await), RebuildErrorKind::Busy);
    assert_eq!(kind(frozen.discard(second, it).await), RebuildErrorKind::Busy);
    assert_eq!(kind(frozen.discard(Generation::FIRST, it).await), RebuildErrorKind::Busy);
    assert_eq!(DB::seen(&scene.pool).await, (1, 1, 1));
    assert_eq!(DB::count(&database.pool, "projector_position").await, 1);
    assert_eq!(kind(elsewhere.renew(they, LONG).await), RebuildErrorKind::Busy, "it was released");
}

/// Who runs the live generation creates the first one, and begins no other.
async fn only_a_rebuild_begins_a_generation<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    let generations = Scene::new(database).generations;
    let second = Generation::FIRST.next();
    generations.prepare(Generation::FIRST, None).await.expect("the first");
    assert_eq!(kind(generations.prepare(second, None).await), RebuildErrorKind::Store);
    assert_eq!(kind(generations.prepare(second, Some(Uuid::now_v7())).await), RebuildErrorKind::Busy, "no claim");
    assert_eq!(generations.state().await.expect("state").building, None);
}

/// Waiting does not help then, so it is not told as an outage.
async fn tables_that_are_missing_are_no_outage<DB: Seen>(_: &Database<DB>)
where
    SumsOf: Handler<DB>,
    ReadModel: Handler<DB>,
{
    let database = unmigrated::<DB>().await;
    let scene = Scene::new(&database);
    assert_eq!(kind(scene.generations.claim(Uuid::now_v7(), LONG).await), RebuildErrorKind::Store);
    assert_eq!(kind(scene.generations.state().await), RebuildErrorKind::Store);
    assert_eq!(kind(within("the end", scene.rebuild().run(std::future::pending())).await), RebuildErrorKind::Store);
    database.tear_down().await;
}

on_every_database!(
    of_two_rebuilds_one_is_refused,
    a_claim_that_ended_is_worth_nothing,
    a_renewal_does_not_pass_over_another_claim,
    only_a_rebuild_begins_a_generation,
    tables_that_are_missing_are_no_outage,
);
