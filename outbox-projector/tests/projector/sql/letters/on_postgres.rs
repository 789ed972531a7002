//! What PostgreSQL alone can do: transactions side by side, constraints that are checked at the end, another version.

use std::{sync::Arc, time::Duration};

use outbox_core::{
    projection::{Projection, ProjectionErrorKind},
    source::Partition,
    testing::Sequencer,
};
use outbox_projector::sql::{BlockedKeys, Letters, Replay};
use sqlx::Postgres;
use test_services::PostgresVersion;

use super::{
    counts, keeping, list, rejected, replay, step,
    undecodable::{Either, undecodable},
};
use crate::{
    sql::{
        Database, ReadModel, database,
        handler::Trouble,
        model::{Model, received},
    },
    support::{PATIENCE, within},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_waits_for_a_replay_of_its_key_and_goes_on_behind_it() {
    for keys in [BlockedKeys::Hold, BlockedKeys::Pass] {
        let database = database::fresh::<Postgres>().await;
        let log = Sequencer::default();
        let events: Vec<_> = (0..3).map(|n| received(&log, "a", n)).collect();
        let handler = ReadModel::with(1, Trouble::Stall);
        let operator = keeping(&database, keys, &handler);
        step(&operator, "1", &events[..1], &[rejected(&events[1])]).await.expect("apply");
        let replaying = tokio::spawn(async move { replay(&operator, Letters::All).await });
        within("the replay is in the middle of the letter", handler.script.stalled.notified()).await;

        let projector = keeping(&database, keys, &ReadModel::default());
        let last = events[2].clone();
        let stepping = tokio::spawn(async move { step(&projector, "2", &[last], &[]).await });
        until_somebody_waits_for_a_lock(&database).await;
        assert!(!stepping.is_finished());
        handler.script.go_on.notify_one();
        let report = within("the replay ends", replaying).await.expect("no panic");
        assert_eq!(counts(&report), (1, 0));
        let applied = within("the step ends", stepping).await.expect("no panic").expect("apply");
        assert_eq!((applied.applied, applied.held), (1, 0), "the key is free");
        assert_eq!(database.model().await, Model::of(&events));
        assert_eq!(list(&keeping(&database, keys, &handler)).await, []);
        database.tear_down().await;
    }
}

/// A versioned projection has no watermarks to lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_of_a_versioned_projection_waits_for_the_letters_themselves() {
    let database = database::fresh::<Postgres>().await;
    let log = Sequencer::default();
    let events: Vec<_> = (0..3).map(|n| received(&log, "a", n)).collect();
    let handler = ReadModel::with(1, Trouble::Stall);
    let versioned = |handler: &ReadModel| {
        let name = outbox_projector::sql::ProjectionName::parse("model").expect("name");
        let builder = outbox_projector::sql::SqlProjection::builder(database.pool.clone(), name, handler.clone());
        builder.versioned().dead_letters(BlockedKeys::Hold).build()
    };
    let operator = versioned(&handler);
    step(&operator, "1", &events[..1], &[rejected(&events[1])]).await.expect("apply");
    let replaying = tokio::spawn(async move { replay(&operator, Letters::All).await });
    within("the replay is in the middle of the letter", handler.script.stalled.notified()).await;
    let (projector, last) = (versioned(&ReadModel::default()), events[2].clone());
    let stepping = tokio::spawn(async move { step(&projector, "2", &[last], &[]).await });
    until_somebody_waits_for_a_lock(&database).await;
    handler.script.go_on.notify_one();
    within("the replay ends", replaying).await.expect("no panic");
    let applied = within("the step ends", stepping).await.expect("no panic").expect("apply");
    assert_eq!((applied.applied, applied.held), (1, 0), "the key is free");
    assert_eq!(database.model().await, Model::of(&events));
    database.tear_down().await;
}

/// Nothing of its key has had an effect yet, so there is no watermark to lock at first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_while_its_letter_is_replayed_has_one_effect() {
    let database = database::fresh::<Postgres>().await;
    let event = received(&Sequencer::default(), "a", 1);
    let handler = ReadModel::with(1, Trouble::Stall);
    let operator = keeping(&database, BlockedKeys::Pass, &handler);
    step(&operator, "1", &[], &[undecodable(&event, 1)]).await.expect("apply");
    let all = Replay::of(Letters::All).decoder(Arc::new(Either));
    let replaying = tokio::spawn(async move { operator.dead_letters().replay(&all).await.expect("replay") });
    within("the replay is in the middle of the letter", handler.script.stalled.notified()).await;
    let projector = keeping(&database, BlockedKeys::Pass, &ReadModel::default());
    let again = event.clone();
    let stepping = tokio::spawn(async move { step(&projector, "2", &[again], &[]).await });
    until_somebody_waits_for_a_lock(&database).await;
    handler.script.go_on.notify_one();
    assert_eq!(counts(&within("the replay ends", replaying).await.expect("no panic")), (1, 0));
    let applied = within("the step ends", stepping).await.expect("no panic").expect("apply");
    assert_eq!((applied.applied, applied.duplicates), (0, 1));
    assert_eq!(database.model().await.list("a"), [1]);
    database.tear_down().await;
}

/// The replay holds the key before its letters, also where nothing of the key has a watermark yet: otherwise each would
/// wait for what the other has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_and_a_replay_of_a_key_without_a_watermark_do_not_wait_for_each_other() {
    let database = database::fresh::<Postgres>().await;
    let log = Sequencer::default();
    let (one, two) = (received(&log, "a", 1), received(&log, "a", 2));
    let handler = ReadModel::with(1, Trouble::Reject);
    let operator = keeping(&database, BlockedKeys::Hold, &handler);
    step(&operator, "1", &[], &[undecodable(&one, 1)]).await.expect("apply");
    let all = Replay::of(Letters::All).decoder(Arc::new(Either));
    let filed = operator.dead_letters().replay(&all).await.expect("replay");
    assert_eq!(counts(&filed), (0, 1), "it is filed under its key and rejected");
    handler.mend();

    let mut somebody = database.pool.begin().await.expect("a transaction");
    let lock = sqlx::query("SELECT FROM outbox.projector_dead_letter FOR UPDATE");
    lock.execute(&mut *somebody).await.expect("the letter is locked");
    let replaying = tokio::spawn(async move { operator.dead_letters().replay(&all).await });
    until_so_many_wait_for_a_lock(&database, 1).await;
    let projector = keeping(&database, BlockedKeys::Hold, &ReadModel::default());
    let stepping = tokio::spawn(async move { step(&projector, "2", &[two], &[]).await });
    until_so_many_wait_for_a_lock(&database, 2).await;
    somebody.rollback().await.expect("rollback");

    let report = within("the replay ends", replaying).await.expect("no panic").expect("no deadlock");
    assert_eq!(counts(&report), (1, 0));
    let applied = within("the step ends", stepping).await.expect("no panic").expect("no deadlock");
    assert_eq!((applied.applied, applied.held), (1, 0));
    assert_eq!(database.model().await.list("a"), [1, 2]);
    database.tear_down().await;
}

async fn until_somebody_waits_for_a_lock(database: &Database<Postgres>) {
    until_so_many_wait_for_a_lock(database, 1).await;
}

/// PostgreSQL tells nobody when somebody begins to wait.
async fn until_so_many_wait_for_a_lock(database: &Database<Postgres>, count: i64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&database.pool).await.expect("a query") < count {
        assert!(tokio::time::Instant::now() < deadline, "fewer than {count} ever wait for a lock");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_constraint_that_is_checked_at_the_end_is_an_events_fault() {
    let database = database::fresh::<Postgres>().await;
    let unique = "ALTER TABLE model_list ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED";
    sqlx::query(unique).execute(&database.pool).await.expect("a constraint");
    let log = Sequencer::default();
    let (one, same) = (received(&log, "a", 1), received(&log, "b", 1));
    let projection = keeping(&database, BlockedKeys::Pass, &ReadModel::default());
    step(&projection, "1", &[one], &[]).await.expect("apply");
    let letter = rejected(&received(&log, "c", 2));
    let error = step(&projection, "2", std::slice::from_ref(&same), &[letter]).await.expect_err("not unique");
    assert_eq!(error.kind(), ProjectionErrorKind::Failed, "{error}");
    assert_eq!(list(&projection).await, [], "letters go with their step");
    assert_eq!(projection.position(&Partition::new("p")).await.expect("position").expect("one").as_text(), "1");
    step(&projection, "2", &[], &[rejected(&same)]).await.expect("apply");
    assert_eq!(counts(&replay(&projection, Letters::All).await), (0, 1));
    database.tear_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_on_another_version() {
    for case in 0..2 {
        let database = database::fresh_on(PostgresVersion::V18).await;
        if case == 0 {
            super::random::with_held_keys_the_read_model_is_exactly_the_model(&database).await;
        } else {
            super::holding::a_replay_beside_running_projectors_keeps_the_order(&database).await;
        }
        database.tear_down().await;
    }
}
