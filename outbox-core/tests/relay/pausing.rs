//! An operator pauses a consumer.

use std::time::Duration;

use outbox_core::{
    log::{EventLog, LogAdmin, StartAt},
    relay::RelayState,
};

use crate::support::{Bench, Running, consumer};

#[tokio::test(start_paused = true)]
async fn a_paused_relay_finishes_what_is_under_way_keeps_its_lanes_and_goes_on_when_resumed() {
    let mut bench = Bench::new();
    bench.publisher.hold();
    let mut running = Running::start(bench.relay().build());
    bench.change(0..10).await;
    running.until("under way", |s| s.in_flight == 10).await;
    bench.log.inner().set_paused(&consumer(), true).await.expect("pause");
    running.until("paused", |s| s.state == RelayState::Paused).await;
    bench.change(0..10).await;
    bench.publisher.release();
    running.until("recorded what was under way", |s| s.checkpoint_position == 10).await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    let status = running.now();
    assert_eq!((status.published, status.read, status.lanes.len(), status.fenced), (10, 10, 64, 0));

    bench.log.inner().set_paused(&consumer(), false).await.expect("resume");
    running.until("the rest", |s| s.published == 20 && s.state == RelayState::Active).await;
    running.stop().await;
    assert_eq!(bench.assert_complete().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_paused_already_is_joined_and_left_alone() {
    let mut bench = Bench::new();
    bench.change(0..10).await;
    bench.log.register(&consumer(), StartAt::Beginning).await.expect("register");
    bench.log.inner().set_paused(&consumer(), true).await.expect("pause");
    let mut running = Running::start(bench.relay().build());
    running.until("paused", |s| s.state == RelayState::Paused && s.lanes.len() == 64).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(running.now().read, 0);
    assert_eq!(running.stop().await.state, RelayState::Stopped);
    assert!(bench.consumer().await.members.is_empty(), "it left");
}
