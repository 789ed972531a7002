//! Answers of the log that get lost: what it did all the same must not stay unknown.

use std::time::Duration;

use outbox_core::{
    log::{Claim, EventLog, LogAdmin, LogErrorKind, MemberId, Redrive},
    relay::{RelayErrorKind, RelayState},
    testing::{LogOperation, PATIENCE},
};

use crate::support::{Bench, Running, consumer};

/// A relay without lanes renews and gets some, and never hears of it. It would own them for ever and publish nothing.
#[tokio::test(start_paused = true)]
async fn lanes_that_a_relay_never_heard_of_do_not_stay_idle() {
    let mut bench = Bench::new();
    let log = bench.log.inner().clone();
    let name = consumer();
    log.register(&name, outbox_core::log::StartAt::Beginning).await.expect("register");
    let all = log.join(&name, MemberId::random(), Claim::All, Duration::from_hours(1)).await.expect("join");
    let mut relay = Running::start(bench.relay().build());
    relay.until("stands by", |s| s.state == RelayState::Standby).await;
    bench.log.fail_after(LogOperation::Renew, 1, LogErrorKind::Unavailable);
    log.leave(&all.fence).await.expect("leave");
    bench.change(0..100).await;
    relay.until("owns all lanes", |s| s.lanes.len() == 64).await;
    bench.assert_complete().await;
    assert_eq!(relay.stop().await.fenced, 1, "it began anew");
}

/// The answer to giving lanes back is lost; the relay may not go on giving back what it gets again.
#[tokio::test(start_paused = true)]
async fn lanes_that_come_back_after_a_lost_release_keep_their_order() {
    let mut bench = Bench::new();
    let mut first = Running::start(bench.relay().build());
    first.until("owns all lanes", |s| s.lanes.len() == 64).await;
    bench.change(0..200).await;
    for _ in 0..3 {
        bench.log.fail_after(LogOperation::Release, 1, LogErrorKind::Unavailable);
        let mut second = Running::start(bench.relay().build());
        second.until("owns lanes", |s| !s.lanes.is_empty()).await;
        bench.change(0..200).await;
        second.kill().await;
        bench.change(0..200).await;
        first.until("owns all lanes again", |s| s.lanes.len() == 64).await;
        bench.change(0..200).await;
        bench.assert_complete().await;
    }
    assert_eq!(bench.log.failures_left(), 0);
    first.stop().await;
}

/// A consumer that was dropped does not come back by itself, and nothing is published from the beginning again.
#[tokio::test(start_paused = true)]
async fn dropping_the_consumer_ends_its_relay() {
    let mut bench = Bench::new();
    let relay = bench.relay().build();
    let status = relay.status();
    let running = tokio::spawn(async move { relay.run(std::future::pending()).await });
    bench.change(0..100).await;
    assert_eq!(bench.assert_complete().await, 0);
    bench.log.inner().drop_consumer(&consumer()).await.expect("drop");
    let ended = tokio::time::timeout(PATIENCE, running).await.expect("it ends").expect("no panic");
    let ended = ended.expect_err("the consumer is gone");
    assert_eq!(ended.kind(), RelayErrorKind::Log(LogErrorKind::UnknownConsumer));
    assert_eq!(status.borrow().state, RelayState::Stopped);
    let known = bench.log.inner().consumers().await.expect("consumers");
    assert!(known.is_empty(), "{known:?}");
    let _nothing_is_parked = bench.log.inner().redrive(&consumer(), &Redrive::All).await.expect_err("unknown");
    assert_eq!(bench.assert_complete().await, 0, "nothing was repeated");
}
