//! A relay that stops as by SIGSTOP, is taken for dead, and wakes up.

use std::{sync::Arc, time::Duration};

use outbox_core::{
    log::{EventLog, LogErrorKind},
    profile::Profile,
    relay::Relay,
    testing::{FaultyLog, FaultyPublisher, LogOperation},
};

use crate::support::{Bench, Running, TOPIC, consumer};

const LEASE: Duration = Duration::from_secs(6);

#[tokio::test(start_paused = true)]
async fn it_changes_nothing_and_sends_no_more_than_it_had_handed_over() {
    const KEYS: i64 = 10;
    let mut bench = Bench::new();
    bench.change((0..500).map(|n| n % KEYS)).await;
    // Its publisher reports late, so that most of what it read still waits in it.
    let late = Arc::new(FaultyPublisher::new(bench.broker.publisher()));
    late.hold();
    let settings = Relay::builder(bench.log.clone(), late.clone(), Profile::default());
    let mut zombie = Running::start(settings.lease(LEASE).lane_in_flight(5).build());
    zombie.until("its lanes are full", |s| s.read == 500 && s.in_flight > 0).await;
    let handed_over = zombie.now().in_flight;
    zombie.freeze();

    let mut heir = Running::start(bench.relay().lease(LEASE).build());
    heir.until("took over", |s| s.published == 500 && s.checkpoint_position == 500).await;
    let written = bench.broker.messages(TOPIC).len();
    assert_eq!(written, 500 + handed_over);

    late.release();
    zombie.thaw();
    zombie.until("noticed", |s| s.fenced == 1).await;
    // It is a member again, with the lanes that the other one gives back to it.
    zombie.until("shares", |s| s.lanes.len() == 32).await;
    assert_eq!(bench.broker.messages(TOPIC).len(), written, "it sent more");
    assert_eq!(bench.log.progress(&consumer()).await.expect("progress").position, 500);
    bench.change(0..KEYS).await;
    assert_eq!(bench.assert_complete().await, handed_over);
    assert_eq!((zombie.stop().await.fenced, heir.stop().await.fenced), (1, 0));
}

/// The same with a log that does not answer for longer than the lease.
#[tokio::test(start_paused = true)]
async fn one_that_cannot_reach_the_log_sends_nothing_once_its_lease_is_over() {
    let mut bench = Bench::new();
    let cut_off = Arc::new(FaultyLog::new(bench.log.inner().clone()));
    let settings = Relay::builder(cut_off.clone(), bench.publisher.clone(), Profile::default());
    let mut zombie = Running::start(settings.lease(LEASE).batch(10).window(10).build());
    bench.change(0..100).await;
    zombie.until("works", |s| s.checkpoint_position == 100).await;
    for operation in [LogOperation::Renew, LogOperation::Checkpoint] {
        cut_off.fail_next(operation, usize::MAX / 4, LogErrorKind::Unavailable);
    }
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    bench.change(0..100).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let status = zombie.now();
    assert_eq!((status.published, status.fenced), (100, 0), "{status:?}");
    assert!(status.last_error.is_some());
    zombie.kill().await;
    let heir = Running::start(bench.relay().build());
    assert_eq!(bench.assert_complete().await, 0);
    heir.stop().await;
}
