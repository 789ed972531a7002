//! A lane that cannot publish does not stop the others, however long it lasts.

use std::time::Duration;

use outbox_core::{
    event::{LaneCount, LaneSet},
    log::EventLog,
    publisher::PublishErrorKind,
    relay::RelayStatus,
};

use crate::support::{Bench, Running, consumer};

const WINDOW: usize = 200;

#[tokio::test(start_paused = true)]
async fn the_others_flow_far_beyond_the_window() {
    let mut bench = Bench::new();
    bench.publisher.refuse_if(PublishErrorKind::Environment, |message| &message.key[..] == b"3");
    let mut running = Running::start(bench.relay().batch(50).window(WINDOW).build());
    for _ in 0..100 {
        bench.change(0..40).await;
    }
    let lane_of = |n: i64| LaneCount::default().lane_of(&format!("Agg/{n}"));
    let others = (0..40).filter(|n| lane_of(*n) != lane_of(3)).count() as u64;
    // Of the keys in its lane some events may get through.
    let all_others = |s: &RelayStatus, of_each: u64| s.published >= others * of_each;
    running.until("the others", |s| all_others(s, 100)).await;
    let status = running.now();
    assert_eq!((status.parked, status.paused.len(), status.checkpoint_position), (0, 1, 0));
    assert!(status.tracks > 1);

    // It is read again and again, but never much of it.
    tokio::time::sleep(Duration::from_mins(30)).await;
    bench.change(0..40).await;
    running.until("the others go on", |s| all_others(s, 101)).await;

    bench.publisher.heal();
    running.until("all", |s| s.published == 4_040 && s.checkpoint_position == 4_040).await;
    running.until("read together again", |s| s.tracks == 1).await;
    assert_eq!(bench.assert_complete().await, 0);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn lanes_that_are_stuck_at_different_places_catch_up_each_by_itself() {
    let mut bench = Bench::new();
    let mut running = Running::start(bench.relay().batch(50).window(WINDOW).build());
    for stuck in [b"3", b"5", b"7"] {
        bench.publisher.refuse_if(PublishErrorKind::Environment, move |message| &message.key[..] == stuck);
        for _ in 0..30 {
            bench.change(0..40).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let lane_of = |n: i64| LaneCount::default().lane_of(&format!("Agg/{n}"));
    let stuck: LaneSet = [3, 5, 7].into_iter().map(lane_of).collect();
    let others = (0..40).filter(|n| !stuck.contains(lane_of(*n))).count() as u64;
    running.until("the others", |s| s.published >= others * 90).await;
    assert_eq!(running.now().paused.len(), 3);
    running.kill().await;

    // The next owner finds each where it was done.
    bench.publisher.heal();
    let next = Running::start(bench.relay().build());
    let repeated = bench.assert_complete().await;
    assert!(repeated <= WINDOW, "{repeated} repeated");
    next.stop().await;
    let progress = bench.log.progress(&consumer()).await.expect("progress");
    assert_eq!(progress.position, progress.head);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_is_not_taken_for_lanes_that_are_stuck() {
    let mut bench = Bench::new();
    bench.publisher.refuse_if(PublishErrorKind::Environment, |_| true);
    let mut running = Running::start(bench.relay().batch(50).window(WINDOW).build());
    for _ in 0..10 {
        bench.change(0..200).await;
    }
    tokio::time::sleep(Duration::from_mins(10)).await;
    let status = running.now();
    assert_eq!((status.tracks, status.published), (1, 0));
    assert!(status.read <= (WINDOW + 50) as u64, "read {} for nothing", status.read);
    bench.publisher.heal();
    running.until("published", |s| s.published == 2_000).await;
    running.stop().await;
    assert_eq!(bench.assert_complete().await, 0);
}
