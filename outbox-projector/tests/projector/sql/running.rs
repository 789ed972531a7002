//! Runners over real read models.

use std::sync::Arc;

use outbox_core::{
    log::{ConsumerName, EventLog},
    log_source::LogSource,
    memory::{MemoryBroker, MemoryLog},
    outbox::Outbox,
    profile::{Profile, SeedEnvelope},
    testing::Sequencer,
};
use outbox_projector::{PartitionState, ProjectorErrorKind, ProjectorStatus, sql::Handler};

use super::{Database, ReadModel, database::TestDatabase, handler::Trouble, on_every_database};
use crate::support::{Running, append, counted, projector, within};

on_every_database!(
    what_commits_is_applied_and_what_rolls_back_is_not,
    two_runners_on_one_partition_apply_everything_once,
    a_runner_killed_in_a_step_is_taken_over_without_double_effect,
    a_rejected_event_holds_its_partition_until_the_handler_is_mended,
    without_tables_the_runner_ends,
);

fn source(log: &MemoryLog) -> LogSource {
    let consumer = ConsumerName::parse("model").expect("name");
    LogSource::builder(Arc::new(log.clone())).consumer(consumer).batch(7).build()
}

async fn what_commits_is_applied_and_what_rolls_back_is_not<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = MemoryLog::default();
    let mut running = Running::start(projector(source(&log), Arc::new(database.projection(ReadModel::default()))));
    append(&log, &[counted("a", 1), counted("b", 2)]).await;
    let mut rolled_back = log.begin();
    let _never_rung = log.append(&mut rolled_back, &[counted("a", 3)]).await.expect("append");
    drop(rolled_back);
    append(&log, &[counted("a", 4)]).await;
    running.until_applied(3).await;
    running.stop().await.expect("run");
    let model = database.model().await;
    assert_eq!((model.list("a"), model.list("b")), (vec![1, 4], vec![2]));
    let progress = log.progress(&ConsumerName::parse("model").expect("name")).await.expect("progress");
    assert_eq!((progress.position, progress.head), (3, 3), "committed at shutdown, so that retention can move on");
}

/// Both sources believe that the partition is theirs, as after a pause longer than a lease.
async fn two_runners_on_one_partition_apply_everything_once<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    const COUNT: i64 = 1_000;
    let (broker, log) = (MemoryBroker::default(), Sequencer::default());
    let write = |n: i64| {
        let message = Profile::default().message(&log.record(counted(&format!("key-{}", n % 5), n))).expect("message");
        broker.write(message);
    };
    (0..COUNT / 2).for_each(write);
    let start = |group: &str, handler: ReadModel| {
        let source = broker.source(group, ["suite-events"], SeedEnvelope);
        Running::start(projector(source, Arc::new(database.projection(handler))))
    };
    let stalling = ReadModel::with(10, Trouble::Stall);
    let one = start("one", stalling.clone());
    within("the first is in the middle of a step", stalling.script.stalled.notified()).await;
    let mut two = start("two", ReadModel::default());
    let started = |s: &ProjectorStatus| s.partitions.values().any(|p| p.state == PartitionState::Running);
    two.until("it knows its position, which the first is about to move", started).await;
    stalling.script.go_on.notify_one();
    two.until("a conflict", |s| s.partitions.values().any(|p| p.conflicts > 0)).await;
    (COUNT / 2..COUNT).for_each(write);
    let end = COUNT.to_string();
    let mut both = [one, two];
    for running in &mut both {
        // A loser notices at its next try, and then sees where the other is.
        let at_end = |s: &ProjectorStatus| {
            s.partitions.values().any(|p| p.position.as_ref().is_some_and(|p| p.as_text() == end))
        };
        running.until("the end", at_end).await;
    }
    let applied: usize = both.iter().map(|r| r.status.borrow().totals().applied).sum();
    for running in both {
        running.stop().await.expect("run");
    }
    assert_eq!(applied, COUNT as usize, "each event by one of them");
    let model = database.model().await;
    for key in 0..5 {
        let expected: Vec<i64> = (0..COUNT).filter(|n| n % 5 == key).collect();
        assert_eq!(model.list(&format!("key-{key}")), expected, "key {key}");
    }
}

async fn a_runner_killed_in_a_step_is_taken_over_without_double_effect<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = MemoryLog::default();
    let events: Vec<_> = (0..50).map(|n| counted("a", n)).collect();
    append(&log, &events).await;
    let short = std::time::Duration::from_millis(200);
    let leased = |log: &MemoryLog| {
        let consumer = ConsumerName::parse("model").expect("name");
        LogSource::builder(Arc::new(log.clone())).consumer(consumer).batch(7).lease(short).poll(short / 4).build()
    };
    let stalling = ReadModel::with(30, Trouble::Stall);
    // Steps of one batch of the source each.
    let first = projector(leased(&log), Arc::new(database.projection(stalling.clone()))).batch(1);
    let first = Running::start(first);
    within("the first is in the middle of a step", stalling.script.stalled.notified()).await;
    first.crash().await;
    let mut second = Running::start(projector(leased(&log), Arc::new(database.projection(ReadModel::default()))));
    second
        .until("the end", |s| s.partitions.values().any(|p| p.last_sequence.is_some_and(|s| s.position() == 50)))
        .await;
    let totals = second.status.borrow().totals();
    second.stop().await.expect("run");
    assert_eq!(totals.applied, 50 - 28, "it went on behind the last whole step: {totals:?}");
    assert_eq!(database.model().await.list("a"), (0..50).collect::<Vec<_>>());
}

async fn a_rejected_event_holds_its_partition_until_the_handler_is_mended<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = MemoryLog::default();
    let handler = ReadModel::with(2, Trouble::Reject);
    let mut running = Running::start(projector(source(&log), Arc::new(database.projection(handler.clone()))));
    append(&log, &[counted("a", 1)]).await;
    running.until_applied(1).await;
    append(&log, &[counted("a", 2), counted("a", 3)]).await;
    let rejected = |state| matches!(state, PartitionState::Rejected { failures, .. } if failures >= 3);
    let status = running.until("rejected", |s| s.partitions.values().any(|p| rejected(p.state))).await;
    let partition = status.partitions.values().next().expect("one partition");
    assert!(partition.error.as_ref().is_some_and(|e| e.contains("the script says so")), "{partition:?}");
    assert!(status.needs_action());
    assert_eq!(database.model().await.list("a"), [1], "nothing was skipped");
    handler.mend();
    let status = running.until_applied(3).await;
    assert!(!status.needs_action());
    running.stop().await.expect("run");
    assert_eq!(database.model().await.list("a"), [1, 2, 3]);
}

async fn without_tables_the_runner_ends<DB: TestDatabase>(_: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let bare = super::database::unmigrated::<DB>().await;
    let running =
        Running::start(projector(source(&MemoryLog::default()), Arc::new(bare.projection(ReadModel::default()))));
    let error = running.end().await.expect_err("no tables");
    assert_eq!(error.kind(), ProjectorErrorKind::NotMigrated);
    bare.tear_down().await;
}

/// The network goes in the middle of the work and comes back.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_events_wait() {
    let database = super::fresh::<sqlx::Postgres>().await;
    let server = database.pool.connect_options();
    let target = tokio::net::lookup_host((server.get_host(), server.get_port())).await.expect("host").next();
    let proxy = test_services::TcpProxy::start(target.expect("an address")).await;
    let options = (*server).clone().host(&proxy.addr().ip().to_string()).port(proxy.addr().port());
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(std::time::Duration::from_millis(500))
        .connect_with(options)
        .await
        .expect("through the proxy");

    let log = MemoryLog::default();
    let projection = Arc::new(super::database::projection_on(pool.clone(), ReadModel::default()));
    let mut running = Running::start(projector(source(&log), projection));
    append(&log, &(0..10).map(|n| counted("a", n)).collect::<Vec<_>>()).await;
    running.until_applied(10).await;
    proxy.cut();
    append(&log, &(10..40).map(|n| counted("a", n)).collect::<Vec<_>>()).await;
    let retrying = |state| matches!(state, PartitionState::Retrying { failures, .. } if failures >= 2);
    running.until("waiting", |s| s.partitions.values().any(|p| retrying(p.state))).await;
    assert_eq!(database.model().await.list("a").len(), 10);
    proxy.restore();
    let status = running.until_applied(40).await;
    assert_eq!(status.totals().duplicates, 0);
    running.stop().await.expect("run");
    assert_eq!(database.model().await.list("a"), (0..40).collect::<Vec<_>>());
    pool.close().await;
    database.tear_down().await;
}
