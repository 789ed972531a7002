//! Events that cannot be published: everything else flows, and their keys stay in order.

use std::time::Duration;

use outbox_core::{
    event::{Event, Sequence},
    log::{EventLog, LogAdmin, LogErrorKind, ParkState, Redrive},
    profile::Profile,
    publisher::PublishErrorKind,
    relay::Relay,
    retry::{Backoff, RetryPolicy},
    testing::LogOperation,
};

use crate::support::{Bench, Running, TOPIC, consumer, is_event};

#[tokio::test(start_paused = true)]
async fn a_poison_among_a_thousand_keys_stops_its_own_key_only_and_redriving_restores_order() {
    let mut bench = Bench::new();
    bench.publisher.refuse_if(PublishErrorKind::Event, |message| is_event(message, 3, 2));
    let mut running = Running::start(bench.relay().retry(RetryPolicy::never()).batch(200).window(500).build());
    for _ in 0..5 {
        bench.change(0..1_000).await;
    }
    running.until("999 keys flow", |s| s.published == 4_996 && s.checkpoint_position == 5_000).await;
    assert_eq!((running.now().parked, running.now().blocked_keys), (4, 1));
    let parked = bench.parked().await;
    let why: Vec<ParkState> = parked.iter().map(|parked| parked.state).collect();
    assert_eq!(why, [ParkState::Parked, ParkState::Behind, ParkState::Behind, ParkState::Behind]);
    assert!(parked[0].reason.contains("failed on cue"), "{}", parked[0].reason);

    // Asked for too early it is refused again, and nothing passes it.
    bench.log.inner().redrive(&consumer(), &Redrive::All).await.expect("redrive");
    running.until("tried again", |s| s.failed == 2).await;
    bench.change(0..1_000).await;
    running.until("the others", |s| s.published == 5_995 && s.parked == 5).await;
    assert_eq!(bench.parked().await[0].attempts, 2);

    bench.publisher.heal();
    bench.log.inner().redrive(&consumer(), &Redrive::All).await.expect("redrive");
    // Writers go on all the while.
    while running.now().blocked_keys > 0 {
        bench.change([3, 3, 4]).await;
        // The pace of writers, on a paused clock: it lets the relay have its turn, and nothing waits for it.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.change([3]).await;
    assert_eq!(bench.assert_complete().await, 0);
    let status = running.stop().await;
    assert_eq!(status.redriven, status.parked);
    assert_eq!(bench.consumer().await.parked, 0);
}

#[tokio::test(start_paused = true)]
async fn of_a_refused_batch_only_who_is_at_fault_is_parked_and_nobody_is_lost_or_overtaken() {
    let mut bench = Bench::new();
    bench.publisher.refuse_if(PublishErrorKind::Suspect, |message| is_event(message, 3, 2));
    bench.publisher.refuse_if(PublishErrorKind::Suspect, |message| is_event(message, 70, 1));
    for _ in 0..5 {
        bench.change(0..200).await;
    }
    let mut running = Running::start(bench.relay().retry(RetryPolicy::never()).batch(200).window(500).build());
    running.until("198 keys flow", |s| s.published == 991 && s.checkpoint_position == 1_000).await;
    assert_eq!((running.now().parked, running.now().blocked_keys), (9, 2));
    let refused: Vec<_> = bench.parked().await.into_iter().filter(|p| p.state == ParkState::Parked).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");

    bench.publisher.heal();
    bench.log.inner().redrive(&consumer(), &Redrive::All).await.expect("redrive");
    running.until("redriven", |s| s.redriven == 9).await;
    running.stop().await;
    assert_eq!(bench.assert_complete().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_is_tried_again_by_itself_until_the_policy_ends() {
    let mut bench = Bench::new();
    bench.publisher.refuse_if(PublishErrorKind::Event, |message| &message.key[..] == b"3");
    let policy = RetryPolicy::new(4, Backoff::new(Duration::from_secs(2), Duration::from_secs(4)));
    let mut running = Running::start(bench.relay().retry(policy).build());
    bench.change([1, 2, 3, 3, 4]).await;
    running.until("the others", |s| s.published == 3 && s.parked == 2).await;
    assert_eq!(bench.parked().await[0].state, ParkState::Retrying);
    running.until("tried four times", |s| s.failed == 4).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(running.now().failed, 4, "the policy had ended");
    let parked = bench.parked().await;
    assert_eq!((parked[0].state, parked[0].attempts, parked[1].state), (ParkState::Parked, 4, ParkState::Behind));

    bench.publisher.heal();
    bench.publisher.refuse_if(PublishErrorKind::Event, |message| is_event(message, 2, 2));
    bench.change([2]).await;
    running.until("refused", |s| s.failed == 5).await;
    bench.publisher.heal();
    running.until("published by a retry", |s| s.published == 4).await;
    assert_eq!(bench.parked().await.len(), 2, "only what the policy gave up is left");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_discarded_lets_its_key_flow() {
    let mut bench = Bench::new();
    bench.publisher.refuse_if(PublishErrorKind::Event, |message| is_event(message, 3, 2));
    bench.publisher.refuse_if(PublishErrorKind::Event, |message| is_event(message, 5, 1));
    let mut running = Running::start(bench.relay().retry(RetryPolicy::never()).build());
    bench.change([3, 3, 3, 5]).await;
    running.until("parked", |s| s.parked == 3).await;
    for (aggregate, version, position) in [(3, 2, 2), (5, 1, 4)] {
        let sequence = Sequence::new(0, position).expect("sequence");
        let discarded = bench.log.inner().discard(&consumer(), sequence, "malformed").await.expect("discard");
        assert!(discarded);
        bench.give_up(aggregate, version);
    }
    // Behind one of them something waits; of the other key the next event finds the way free.
    bench.change([3, 5]).await;
    assert_eq!(bench.assert_complete().await, 0);
    running.until("nothing is blocked", |s| s.blocked_keys == 0).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_encoded_is_parked() {
    let mut bench = Bench::new();
    bench.change([1, 2, 3, 2]).await;
    let profile = Profile::default().with_router(|event: &Event| {
        assert_ne!(event.aggregate_id.as_str(), "2", "a router with a fault");
        TOPIC.to_owned()
    });
    let relay = Relay::builder(bench.log.clone(), bench.publisher.clone(), profile).build();
    let mut running = Running::start(relay);
    running.until("the others pass", |s| s.published == 2 && s.checkpoint_position == 4).await;
    assert!(bench.parked().await[0].reason.contains("panicked"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_next_owner_of_a_lane_knows_what_is_blocked() {
    let mut bench = Bench::new();
    bench.publisher.refuse_if(PublishErrorKind::Event, |message| is_event(message, 3, 1));
    let policy = RetryPolicy::never();
    let mut first = Running::start(bench.relay().retry(policy).build());
    bench.change([3, 4]).await;
    first.until("parked", |s| s.parked == 1 && s.published == 1).await;
    first.kill().await;
    bench.change([3, 4]).await;
    // It learns of them even when the log does not answer at first.
    bench.log.fail_next(LogOperation::BlockedKeys, 3, LogErrorKind::Unavailable);
    let mut second = Running::start(bench.relay().retry(policy).build());
    second.until("parked behind", |s| s.parked >= 1 && s.checkpoint_position == 4).await;
    assert_eq!(bench.parked().await.len(), 2);
    bench.publisher.heal();
    bench.log.inner().redrive(&consumer(), &Redrive::All).await.expect("redrive");
    bench.assert_complete().await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn lost_answers_about_parked_events_change_nothing() {
    let mut bench = Bench::new();
    bench.publisher.refuse_if(PublishErrorKind::Event, |message| is_event(message, 3, 2));
    let mut running = Running::start(bench.relay().retry(RetryPolicy::never()).build());
    for operation in [LogOperation::Park, LogOperation::DueParked, LogOperation::Redriven] {
        bench.log.fail_next(operation, 2, LogErrorKind::Unavailable);
        bench.log.fail_after(operation, 2, LogErrorKind::Unavailable);
    }
    bench.change([3, 3, 3, 4]).await;
    running.until("parked", |s| s.parked == 2 && s.published == 2).await;
    bench.publisher.heal();
    while bench.log.failures_left() > 0 || running.now().blocked_keys > 0 {
        bench.log.inner().redrive(&consumer(), &Redrive::All).await.expect("redrive");
        bench.change([3]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(bench.assert_complete().await, 0);
    running.stop().await;
    assert_eq!(bench.log.progress(&consumer()).await.expect("progress").position, bench.events() as u64);
}

#[tokio::test(start_paused = true)]
async fn an_outage_parks_nothing() {
    let mut bench = Bench::new();
    let mut running = Running::start(bench.relay().build());
    bench.publisher.refuse_if(PublishErrorKind::Environment, |_| true);
    bench.change(0..100).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(running.now().parked, 0);
    bench.publisher.heal();
    running.until("published", |s| s.published == 100).await;
    running.stop().await;
    assert_eq!(bench.assert_complete().await, 0);
}

/// Poison in many keys, relays that come and go and die, a broker that fails, an operator who redrives.
#[tokio::test(start_paused = true)]
async fn parked_keys_stay_in_order_while_relays_come_and_go() {
    let mut bench = Bench::new();
    let policy = RetryPolicy::new(3, Backoff::new(Duration::from_millis(200), Duration::from_secs(1)));
    let start = |bench: &Bench| {
        Running::start(bench.relay().batch(20).window(100).retry(policy).lease(Duration::from_secs(3)).build())
    };
    let mut relays = vec![start(&bench)];
    for round in 0..30_i64 {
        bench.publisher.heal();
        let kind = if round % 2 == 0 { PublishErrorKind::Event } else { PublishErrorKind::Suspect };
        bench.publisher.refuse_if(kind, move |message| is_event(message, round % 11, round / 3 + 1));
        match round % 4 {
            0 | 2 => relays.push(start(&bench)),
            1 => relays.remove(0).kill().await,
            _ => {
                relays.remove(0).stop().await;
            }
        }
        for _ in 0..10 {
            bench.change((0..22).map(|n| n % 11)).await;
            bench.publisher.fail_next(1, PublishErrorKind::Environment);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bench.log.inner().redrive(&consumer(), &Redrive::All).await.expect("redrive");
    }
    bench.publisher.heal();
    if relays.is_empty() {
        relays.push(start(&bench));
    }
    while bench.consumer().await.parked > 0 {
        bench.log.inner().redrive(&consumer(), &Redrive::All).await.expect("redrive");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bench.assert_complete().await;
    for relay in relays {
        relay.stop().await;
    }
}

/// A key whose lane is stuck has many parked events; the others are redriven all the same.
#[tokio::test(start_paused = true)]
async fn a_stuck_key_does_not_keep_the_others_from_being_redriven() {
    const STUCK: i64 = 0;
    let mut bench = Bench::new();
    bench.publisher.refuse_if(PublishErrorKind::Event, |_| true);
    let mut running = Running::start(bench.relay().retry(RetryPolicy::never()).build());
    // More than is held of all keys together.
    bench.change(std::iter::repeat_n(STUCK, 2_500)).await;
    bench.change(1..=10).await;
    running.until("all are parked", |s| s.parked == 2_510).await;
    bench.publisher.heal();
    // Its lane may hold others too: they wait with it.
    bench.publisher.refuse_if(PublishErrorKind::Environment, |message| &message.key[..] == b"0");
    bench.log.inner().redrive(&consumer(), &Redrive::All).await.expect("redrive");
    running.until("nearly all others are redriven", |s| s.redriven >= 8).await;
    bench.publisher.heal();
    bench.assert_complete().await;
    running.until("all are redriven", |s| s.blocked_keys == 0).await;
    running.stop().await;
}
