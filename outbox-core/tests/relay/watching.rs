//! What a relay shows of itself while it runs.

use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use outbox_core::{
    event::LaneCount,
    publisher::PublishErrorKind,
    relay::{RelayErrorKind, RelayState},
    retry::RetryPolicy,
};

use crate::support::{Bench, is_event};

#[tokio::test(start_paused = true)]
async fn a_handle_shows_each_lane_and_stops_the_relay() {
    let mut bench = Bench::new();
    bench.publisher.refuse_if(PublishErrorKind::Environment, |message| is_event(message, 3, 2));
    bench.publisher.refuse_if(PublishErrorKind::Event, |message| is_event(message, 5, 1));
    let handle = bench.relay().retry(RetryPolicy::never()).start();
    for _ in 0..2 {
        bench.change(0..50).await;
    }
    let count = LaneCount::default();
    let (stuck, poison) = (count.lane_of("Agg/3"), count.lane_of("Agg/5"));
    let mut lanes = handle.lanes();
    let shown = lanes
        .wait_for(|lanes| {
            lanes.iter().any(|lane| lane.lane == stuck && lane.paused && lane.failures > 0)
                && lanes.iter().any(|lane| lane.lane == poison && lane.blocked_keys == 1)
        })
        .await
        .expect("running")
        .clone();
    assert_eq!(shown.len(), 64);
    let of = |wanted| shown.iter().find(|lane| lane.lane == wanted).expect("a lane of the relay");
    assert!(of(stuck).last_error.as_deref().is_some_and(|why| why.contains("on cue")), "{:?}", of(stuck));
    assert!(of(stuck).waiting > 0);
    let others = || shown.iter().filter(|lane| lane.lane != stuck && lane.lane != poison);
    assert!(others().all(|lane| !lane.paused && lane.last_error.is_none()));

    bench.publisher.heal();
    let all_done = |lanes: &Vec<_>| lanes.iter().all(|lane: &outbox_core::relay::LaneStatus| lane.waiting == 0);
    let shown = lanes
        .wait_for(|lanes| all_done(lanes) && lanes.iter().any(|l| l.position == 100))
        .await
        .expect("running")
        .clone();
    assert!(shown.iter().find(|lane| lane.lane == stuck).expect("it").last_error.is_none());
    let status = handle.status();
    handle.stop().await.expect("a clean end");
    assert_eq!(status.borrow().state, RelayState::Stopped);
    assert!(lanes.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_handle_tells_why_the_relay_ended() {
    let mut bench = Bench::new();
    bench.publisher.fail_next(1, PublishErrorKind::Configuration);
    bench.change([1]).await;
    let mut handle = bench.relay().start();
    assert_eq!(handle.ended().await.expect_err("configuration").kind(), RelayErrorKind::Publisher);
    assert_eq!(handle.ended().await.expect_err("told before").kind(), RelayErrorKind::Crashed);
}

#[tokio::test(start_paused = true)]
async fn a_relay_whose_handle_is_dropped_gives_its_lanes_back() {
    let mut bench = Bench::new();
    let handle = bench.relay().lease(Duration::from_hours(10)).start();
    let mut status = handle.status();
    status.wait_for(|status| status.state == RelayState::Active).await.expect("running");
    drop(handle);
    status.wait_for(|status| status.state == RelayState::Stopped).await.expect("stopped");
    bench.change([1]).await;
    let next = bench.relay().start();
    next.status().wait_for(|status| status.published == 1).await.expect("running");
    next.stop().await.expect("a clean end");
}

#[test]
fn metrics_say_what_was_done_and_end_at_nothing_under_way() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("runtime");
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let mut bench = Bench::new();
            bench.change(0..40).await;
            let handle = bench.relay().start();
            handle.status().wait_for(|status| status.published == 40).await.expect("running");
            handle.stop().await.expect("a clean end");
        });
    });
    let shown = snapshotter.snapshot().into_vec();
    let value = |name: &str| {
        let found = shown.iter().find(|(key, ..)| key.key().name() == name);
        let (key, _, _, value) = found.unwrap_or_else(|| panic!("no metric {name}"));
        let labels: Vec<&str> = key.key().labels().map(metrics::Label::key).collect();
        assert_eq!(labels, ["consumer", "log"], "{name}");
        value
    };
    assert_eq!(value("outbox_relay_published_total"), &DebugValue::Counter(40));
    assert_eq!(value("outbox_relay_read_total"), &DebugValue::Counter(40));
    assert_eq!(value("outbox_relay_failed_total"), &DebugValue::Counter(0));
    for gauge in ["lanes", "paused_lanes", "in_flight", "blocked_keys", "unpublished_age_seconds"] {
        assert_eq!(value(&format!("outbox_relay_{gauge}")), &DebugValue::Gauge(0.0.into()), "{gauge}");
    }
    let DebugValue::Histogram(sizes) = value("outbox_relay_batch_events") else { panic!("no histogram") };
    assert!((sizes.iter().map(|size| size.0).sum::<f64>() - 40.0).abs() < f64::EPSILON);
    assert!(matches!(value("outbox_relay_publish_seconds"), DebugValue::Histogram(_)));
}
