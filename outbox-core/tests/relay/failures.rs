//! A broker or a log that fails, passing or not.

use std::time::Duration;

use outbox_core::{
    log::LogErrorKind,
    publisher::PublishErrorKind,
    relay::{RelayErrorKind, RelayState},
    testing::LogOperation,
};

use crate::support::{Bench, Running};

#[tokio::test(start_paused = true)]
async fn a_broker_that_fails_loses_nothing_and_overtakes_nothing() {
    let mut bench = Bench::new();
    bench.change((0..400).map(|n| n % 10)).await;
    let mut running = Running::start(bench.relay().batch(32).window(100).build());
    for failures in 1..30 {
        bench.publisher.fail_next(failures % 5 + 1, PublishErrorKind::Environment);
        bench.publisher.fail_reserve(failures % 3, PublishErrorKind::Environment);
        bench.change((0..40).map(|n| n % 10)).await;
        let events = bench.events() as u64;
        running.until("published", |s| s.published == events).await;
    }
    let status = running.stop().await;
    assert!(status.failed > 0);
    assert_eq!(status.parked, 0, "no event is to blame");
    assert_eq!(status.last_error, None, "what passed is not shown any more");
    bench.assert_complete().await;
}

#[tokio::test(start_paused = true)]
async fn suspects_are_tried_alone_and_only_who_is_at_fault_is_parked() {
    let mut bench = Bench::new();
    let mut running = Running::start(bench.relay().batch(32).build());
    for suspects in 1..10 {
        bench.publisher.fail_next(suspects, PublishErrorKind::Suspect);
        bench.change((0..40).map(|n| n % 10)).await;
        let events = bench.events() as u64;
        running.until("published", |s| s.published == events).await;
    }
    let status = running.stop().await;
    assert!(status.failed > 0);
    assert_eq!((status.parked, status.paused.is_empty()), (0, true));
    assert_eq!(bench.assert_complete().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_away_is_waited_for() {
    let mut bench = Bench::new();
    let mut running = Running::start(bench.relay().build());
    for operation in [LogOperation::Read, LogOperation::Checkpoint, LogOperation::Renew] {
        bench.log.fail_next(operation, 5, LogErrorKind::Unavailable);
        bench.change(0..20).await;
        let (events, log) = (bench.events() as u64, bench.log.clone());
        running
            .until("published and recorded in spite of failures", |s| {
                s.published == events && s.checkpoint_position == events && log.failures_left() == 0
            })
            .await;
    }
    running.stop().await;
    assert_eq!(bench.assert_complete().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_away_at_the_start_is_waited_for() {
    let mut bench = Bench::new();
    bench.log.fail_next(LogOperation::Register, 3, LogErrorKind::Unavailable);
    bench.log.fail_next(LogOperation::Identity, 3, LogErrorKind::Unavailable);
    bench.log.fail_next(LogOperation::Join, 3, LogErrorKind::Unavailable);
    bench.log.fail_next(LogOperation::BlockedKeys, 3, LogErrorKind::Unavailable);
    bench.change(0..5).await;
    let mut running = Running::start(bench.relay().build());
    running.until("published", |s| s.published == 5).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_waiting_cannot_mend_ends_the_relay() {
    let bench = Bench::new();
    bench.log.fail_next(LogOperation::Read, 1, LogErrorKind::NotMigrated);
    let relay = bench.relay().build();
    let status = relay.status();
    let error = relay.run(std::future::pending()).await.expect_err("not migrated");
    assert_eq!(error.kind(), RelayErrorKind::Log(LogErrorKind::NotMigrated));
    assert_eq!(status.borrow().state, RelayState::Stopped);

    let mut bench = Bench::new();
    bench.publisher.fail_next(1, PublishErrorKind::Configuration);
    bench.change([1]).await;
    let error = bench.relay().build().run(std::future::pending()).await.expect_err("configuration");
    assert_eq!(error.kind(), RelayErrorKind::Publisher);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_ends_by_an_error_gives_its_lanes_back() {
    let mut bench = Bench::new();
    bench.change([1]).await;
    bench.publisher.fail_next(1, PublishErrorKind::Configuration);
    bench.relay().lease(Duration::from_hours(10)).build().run(std::future::pending()).await.expect_err("configuration");
    let mut next = Running::start(bench.relay().poll(Duration::from_secs(1)).build());
    let begin = tokio::time::Instant::now();
    next.until("published", |s| s.published == 1).await;
    assert!(begin.elapsed() < Duration::from_hours(1), "waited for the lease");
    next.stop().await;
}
