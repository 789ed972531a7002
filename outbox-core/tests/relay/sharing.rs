//! Relays that share the lanes of a consumer, come, go and die.

use std::time::Duration;

use outbox_core::{
    log::{Claim, EventLog, LogErrorKind, MemberId, StartAt},
    relay::RelayState,
    testing::LogOperation,
};

use crate::support::{Bench, Running, consumer};

async fn own(relays: &mut [&mut Running], lanes: &[u32]) {
    for (relay, lanes) in relays.iter_mut().zip(lanes) {
        relay.until(&format!("owns {lanes} lanes"), |s| s.lanes.len() == *lanes).await;
    }
}

#[tokio::test(start_paused = true)]
async fn relays_share_the_lanes_evenly_as_they_come_and_go_and_die() {
    let mut bench = Bench::new();
    let mut a = Running::start(bench.relay().build());
    own(&mut [&mut a], &[64]).await;
    bench.change(0..300).await;
    let mut b = Running::start(bench.relay().build());
    own(&mut [&mut a, &mut b], &[32, 32]).await;
    bench.change(0..300).await;
    let mut c = Running::start(bench.relay().build());
    own(&mut [&mut a, &mut b, &mut c], &[22, 22, 20]).await;
    bench.change(0..300).await;
    assert_eq!(bench.assert_complete().await, 0, "giving lanes back repeats nothing");
    for relay in [&mut a, &mut b, &mut c] {
        relay.until("has something to do", |s| s.published > 0).await;
    }

    let stopped = a.stop().await;
    assert!(stopped.lanes.is_empty());
    own(&mut [&mut b, &mut c], &[32, 32]).await;
    bench.change(0..300).await;
    assert_eq!(bench.assert_complete().await, 0, "a stop repeats nothing");

    // What is published and not recorded may come again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    b.kill().await;
    own(&mut [&mut c], &[64]).await;
    bench.change(0..300).await;
    assert_eq!(bench.assert_complete().await, 0, "everything was recorded");
    c.until("lanes that caught up are read together", |s| s.tracks == 1).await;
    assert_eq!(c.stop().await.fenced, 0);
}

#[tokio::test(start_paused = true)]
async fn more_relays_than_lanes_can_be_and_the_rest_stand_by() {
    let bench = Bench::new();
    let mut relays: Vec<Running> = (0..3).map(|_| Running::start(bench.relay().build())).collect();
    // Only lanes that are owned count; here a member that takes all lanes or none keeps everybody else out.
    for relay in relays.drain(..) {
        relay.stop().await;
    }
    let log = bench.log.inner();
    let all = log.join(&consumer(), MemberId::random(), Claim::All, Duration::from_secs(7)).await.expect("join");
    assert_eq!(all.lanes().len(), 64);
    let mut waiting = Running::start(bench.relay().build());
    waiting.until("stands by", |s| s.state == RelayState::Standby).await;
    log.leave(&all.fence).await.expect("leave");
    waiting.until("takes over", |s| s.state == RelayState::Active && s.lanes.len() == 64).await;
    waiting.stop().await;
}

/// Relays come, stop and die in turn while writers go on and the broker fails now and then.
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_overtaken_while_relays_come_and_go_under_load() {
    const WINDOW: usize = 100;
    let mut bench = Bench::new();
    let start = |bench: &Bench| {
        let settings = bench.relay().batch(20).window(WINDOW).lane_in_flight(5);
        Running::start(settings.lease(Duration::from_secs(3)).build())
    };
    let mut relays = Vec::new();
    let mut deaths = 0;
    for round in 0..40_i64 {
        match round % 5 {
            0 | 1 | 3 => relays.push(start(&bench)),
            2 => {
                let dies = relays.remove(0);
                dies.kill().await;
                deaths += 1;
            }
            _ => {
                relays.remove(relays.len() / 2).stop().await;
            }
        }
        while relays.len() > 3 {
            relays.remove(0).stop().await;
        }
        for change in 0..20 {
            bench.change((0..30).map(|n| (n * 7 + round + change) % 53)).await;
            if change == round % 20 {
                bench.publisher.fail_next(2, outbox_core::publisher::PublishErrorKind::Environment);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let repeated = bench.assert_complete().await;
    // One page may exceed the window.
    assert!(repeated <= deaths * (WINDOW + 20), "{repeated} repeated after {deaths} deaths");
    for relay in relays {
        let status = relay.stop().await;
        assert_eq!((status.fenced, status.parked), (0, 0));
    }
    let progress = bench.log.progress(&consumer()).await.expect("progress");
    assert_eq!((progress.position, progress.tracks.len()), (progress.head, 1));
}

#[tokio::test(start_paused = true)]
async fn a_killed_relay_is_taken_over_after_its_lease() {
    let mut bench = Bench::new();
    for round in 0..10 {
        bench.change((0..60).map(|n| n % 7)).await;
        let mut doomed = Running::start(bench.relay().batch(16).window(32).build());
        let some = round % 4 * 10;
        doomed.until("some are published", |s| s.state == RelayState::Active && s.published >= some).await;
        doomed.kill().await;
    }
    let mut last = Running::start(bench.relay().build());
    last.until("owns the lanes", |s| s.state == RelayState::Active).await;
    // One page may exceed the window.
    let repeated = bench.assert_complete().await;
    assert!(repeated <= 10 * (32 + 16), "{repeated} repeated");
    last.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fenced_relay_records_nothing_and_joins_again() {
    let mut bench = Bench::new();
    let lease = Duration::from_secs(6);
    let mut running = Running::start(bench.relay().lease(lease).build());
    running.until("active", |s| s.state == RelayState::Active).await;

    // It cannot renew for longer than its lease.
    bench.log.fail_next(LogOperation::Renew, 30, LogErrorKind::Unavailable);
    let log = bench.log.inner().clone();
    log.register(&consumer(), StartAt::Beginning).await.expect("register");
    let other = log.join(&consumer(), MemberId::random(), Claim::All, Duration::from_hours(1)).await.expect("join");
    assert!(other.tracks.is_empty());
    tokio::time::sleep(lease).await;
    let gained = log.renew(&other.fence, Duration::from_hours(1)).await.expect("renew").gained;
    assert_eq!(outbox_core::log::lanes_of(&gained).len(), 64);
    bench.change([1, 2, 3]).await;
    running.until("fenced", |s| s.fenced == 1 && s.state == RelayState::Standby).await;
    assert_eq!((running.now().published, running.now().checkpoint_position), (0, 0), "its lease was over");

    log.leave(&other.fence).await.expect("leave");
    running.until("published after joining again", |s| s.published == 3 && s.checkpoint_position == 3).await;
    assert_eq!(bench.assert_complete().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_is_made_again() {
    let mut bench = Bench::new();
    let mut a = Running::start(bench.relay().build());
    own(&mut [&mut a], &[64]).await;
    bench.log.fail_next(LogOperation::Release, 3, LogErrorKind::Unavailable);
    let mut b = Running::start(bench.relay().build());
    own(&mut [&mut a, &mut b], &[32, 32]).await;
    bench.change(0..200).await;
    assert_eq!(bench.assert_complete().await, 0);
    assert_eq!((a.stop().await.fenced, b.stop().await.fenced), (0, 0));
    assert_eq!(bench.log.failures_left(), 0);
}
