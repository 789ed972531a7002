//! Steps that fail, end in the middle, or are taken by several runners at once.

use std::{num::NonZeroU32, sync::Arc};

use outbox_core::{
    event::NewEvent,
    memory::MemoryBroker,
    profile::{Profile, SeedEnvelope},
    projection::ProjectionErrorKind,
    testing::Sequencer,
};
use outbox_projector::sql::Handler;

use super::{Bed, Database, ReadModel, apply, effects, on_every_database};
use crate::{
    sql::{
        handler::Trouble,
        model::{Model, foreign, received},
    },
    support::{Running, counted, projector, within},
};

on_every_database!(
    a_failed_event_stops_its_key_and_no_other,
    an_event_is_known_by_its_id_and_not_by_its_sequence,
    an_ignored_event_stays_ignored,
    a_crash_between_effect_and_commit_leaves_neither,
    eight_runners_at_once_have_each_effect_once,
    a_runner_goes_on_behind_an_event_that_fails_for_a_while,
    without_tables_it_says_what_to_do,
);

async fn a_failed_event_stops_its_key_and_no_other<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> =
        [("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5)].map(|(key, n)| received(&log, key, n)).to_vec();
    for (trouble, kind) in
        [(Trouble::Fail, ProjectionErrorKind::Failed), (Trouble::Reject, ProjectionErrorKind::Rejected)]
    {
        let error = apply(&effects(database, ReadModel::with(3, trouble), 2), &events).await.expect_err("it fails");
        assert_eq!((error.kind(), error.event()), (kind, Some(2)));
        assert!(error.to_string().contains(&events[2].event.id.to_string()), "which event: {error}");
        let model = database.model().await;
        assert_eq!((model.list("a"), model.list("b")), (vec![1], vec![2, 4]));
    }
    let without: Vec<_> = events.iter().filter(|e| e.event.id != events[2].event.id).cloned().collect();
    let applied = apply(&effects(database, ReadModel::default(), 2), &without).await.expect("the rest");
    assert_eq!((applied.applied, applied.duplicates), (1, 3));
    let applied = apply(&effects(database, ReadModel::default(), 2), &events).await.expect("all");
    assert_eq!((applied.applied, applied.duplicates), (1, 4), "given up, and applied later after all");
    assert_eq!(database.model().await.list("a"), [1, 5, 3]);
}

async fn an_event_is_known_by_its_id_and_not_by_its_sequence<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let (older, newer, foreign) = (received(&log, "a", 1), received(&log, "a", 2), foreign("a", 3));
    let projection = effects(database, ReadModel::default(), 1);
    for (event, applied, duplicates) in
        [(&newer, 1, 0), (&older, 1, 0), (&foreign, 1, 0), (&older, 0, 1), (&foreign, 0, 1)]
    {
        let did = apply(&projection, std::slice::from_ref(event)).await.expect("apply");
        assert_eq!((did.applied, did.duplicates), (applied, duplicates));
    }
    assert_eq!(database.model().await.list("a"), [2, 1, 3]);
}

async fn an_ignored_event_stays_ignored<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let unknown = [log.receive(NewEvent::json("Suite", "a", "Unheard", "of").expect("event"))];
    let projection = effects(database, ReadModel::default(), 1);
    let did = apply(&projection, &unknown).await.expect("apply");
    assert_eq!((did.applied, did.ignored, did.duplicates), (0, 1, 0));
    let did = apply(&projection, &unknown).await.expect("apply");
    assert_eq!((did.applied, did.ignored, did.duplicates), (0, 0, 1));
}

async fn a_crash_between_effect_and_commit_leaves_neither<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..3).map(|n| received(&log, "a", n)).collect();
    let handler = ReadModel::with(1, Trouble::Stall);
    let projection = effects(database, handler.clone(), 1);
    within("the handler stalls behind its rows", async {
        tokio::select! {
            applied = apply(&projection, &events) => panic!("not stalled: {applied:?}"),
            () = handler.script.stalled.notified() => {}
        }
    })
    .await;
    let did = apply(&projection, &events).await.expect("apply");
    assert_eq!((did.applied, did.duplicates), (2, 1), "the one before had committed");
    assert_eq!(database.model().await, Model::of(&events));
    assert_eq!(database.count("projector_inbox").await, 3);
}

async fn eight_runners_at_once_have_each_effect_once<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    const COUNT: usize = 60;
    const RUNNERS: usize = 8;
    let (broker, log) = (MemoryBroker::default(), Sequencer::default());
    for n in 0..COUNT {
        let event = counted(&format!("key-{}", n % 3), n as i64);
        broker.write(Profile::default().message(&log.record(event)).expect("message"));
    }
    let start = |n: usize| {
        let source = broker.source(format!("group-{n}"), ["suite-events"], SeedEnvelope);
        Running::start(projector(source, Arc::new(effects(database, ReadModel::default(), 2))))
    };
    let mut runners: Vec<Running> = (0..RUNNERS).map(start).collect();
    let mut applied = 0;
    for running in &mut runners {
        let all = |s: &outbox_projector::ProjectorStatus| s.totals().applied + s.totals().duplicates >= COUNT;
        applied += running.until("all events", all).await.totals().applied;
    }
    for running in runners {
        running.stop().await.expect("run");
    }
    assert_eq!(applied, COUNT, "each event by one of them");
    let model = database.model().await;
    for key in 0..3 {
        let expected: Vec<i64> = (0..COUNT as i64).filter(|n| n % 3 == key).collect();
        assert_eq!(model.list(&format!("key-{key}")), expected, "key {key}");
    }
}

async fn a_runner_goes_on_behind_an_event_that_fails_for_a_while<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (broker, log) = (MemoryBroker::default(), Sequencer::default());
    for n in 0..20 {
        let event = counted(&format!("key-{}", n % 2), n);
        broker.write(Profile::default().message(&log.record(event)).expect("message"));
    }
    let handler = ReadModel::with(7, Trouble::FailOnce);
    let source = broker.source("group", ["suite-events"], SeedEnvelope);
    let attempts = NonZeroU32::new(2).expect("two");
    let mut running = Running::start(projector(source, Arc::new(effects(database, handler, 2))).attempts(attempts));
    let end = |s: &outbox_projector::ProjectorStatus| {
        s.partitions.values().any(|p| p.last_sequence.is_some_and(|s| s.position() == 20))
    };
    running.until("the end", end).await;
    running.stop().await.expect("run");
    let model = database.model().await;
    for key in 0..2 {
        let expected: Vec<i64> = (0..20).filter(|n| n % 2 == key).collect();
        assert_eq!(model.list(&format!("key-{key}")), expected, "key {key}");
    }
}

async fn without_tables_it_says_what_to_do<DB: Bed>(_: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let bare = crate::sql::database::unmigrated::<DB>().await;
    let events = [received(&Sequencer::default(), "a", 1)];
    let error = apply(&effects(&bare, ReadModel::default(), 1), &events).await.expect_err("no tables");
    assert_eq!(error.kind(), ProjectionErrorKind::NotMigrated, "{error}");
    bare.tear_down().await;
}

/// PostgreSQL answers COMMIT with success after a failed statement, though it rolled back.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_the_handler_hides_is_not_taken_for_success() {
    let database = super::fresh::<sqlx::Postgres>().await;
    let events = [received(&Sequencer::default(), "a", 1)];
    let hidden = apply(&effects(&database, ReadModel::with(1, Trouble::HideError), 1), &events).await;
    assert_eq!(hidden.expect_err("nothing was committed").event(), Some(0));
    assert_eq!(database.count("projector_inbox").await, 0);
    database.tear_down().await;
}
