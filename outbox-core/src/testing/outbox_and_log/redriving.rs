//! What is promised of parked events that are published again, or given up.

use std::time::Duration;

use super::{
    LogHarness,
    parking::Scene,
    steps::{LONG, behind, fails, fails_for, republished},
};
use crate::{
    event::Sequence,
    log::{EventLog, LogAdmin, LogErrorKind, ParkState, Parked, Redrive, Redriven},
    testing::{
        event::{SUITE_TYPE, numbered},
        suite::within,
    },
};

/// An event that is to be tried again is due when its time has come, not before, and a renewal says so.
pub async fn a_retry_is_due_when_its_time_has_come<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness, &[numbered("a", 1)]).await;
    let event = scene.event(0);
    scene.park(harness, &[fails_for(event, "", 1, Some(LONG))]).await;
    assert_eq!(scene.due(harness, 10).await, [0; 0], "its time has not come");
    assert!(!log.renew(&scene.member.fence, LONG).await.expect("renew").redrive, "nothing is due");
    scene.park(harness, &[fails_for(event, "", 2, Some(Duration::from_millis(1)))]).await;
    let is_due = async {
        // Time passes on the database's clock, which gives no signal.
        while scene.due(harness, 10).await != [1] {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within("the time of a retry", is_due).await;
    assert!(log.renew(&scene.member.fence, LONG).await.expect("renew").redrive, "something is due");
    assert_eq!(scene.due(harness, 10).await, [1], "due until it was published or failed again");
}

/// An event without a time for its retry waits until somebody asks, and is due then; the answer counts keys.
pub async fn a_request_makes_keys_due<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events = [numbered("a", 1), numbered("b", 2), numbered("c", 3), numbered("c", 4)];
    let scene = Scene::write(harness, &events).await;
    let [a, b, c, c_behind] = [0, 1, 2, 3].map(|n| scene.event(n));
    scene.park(harness, &[fails(a), fails_for(b, "", 1, Some(LONG)), fails(c), behind(c_behind)]).await;
    assert_eq!(scene.due(harness, 10).await, [0; 0], "nobody asked");
    assert!(!log.renew(&scene.member.fence, LONG).await.expect("renew").redrive);

    let redrive = async |which: Redrive| log.redrive(&scene.consumer, &which).await.expect("redrive");
    assert_eq!(redrive(Redrive::Event(a.origin.sequence)).await, 1, "one key");
    assert_eq!(scene.due(harness, 10).await, [1]);
    assert!(log.renew(&scene.member.fence, LONG).await.expect("renew").redrive, "somebody asked");
    let aggregate = |id: &str| Redrive::Aggregate { aggregate_type: SUITE_TYPE.into(), aggregate_id: id.into() };
    assert_eq!(redrive(aggregate("b")).await, 1, "one key");
    assert_eq!(scene.all_due(harness).await, [1, 2]);
    for nothing in [aggregate("x"), Redrive::Event(Sequence::new(0, 999_999).expect("sequence"))] {
        assert_eq!(redrive(nothing.clone()).await, 0, "{nothing:?} is not parked");
    }
    assert_eq!(redrive(Redrive::Event(c_behind.origin.sequence)).await, 1, "the key of one behind another");
    assert_eq!(scene.all_due(harness).await, [1, 2, 3, 4], "whole keys");
    assert_eq!(redrive(Redrive::All).await, 3, "every key, asked for or not");
}

/// Due events of one key come in order and without a gap from its first one on, however few are asked for; keys that are
/// not due do not come.
pub async fn due_events_come_in_the_order_of_their_key<H: LogHarness>(harness: &H) {
    let events: Vec<_> = (0..12).map(|n| numbered(["a", "b", "c"][n as usize % 3], n)).collect();
    let scene = Scene::write(harness, &events).await;
    let mut parks: Vec<_> = scene.events.iter().map(behind).collect();
    parks[0] = fails_for(scene.event(0), "", 1, Some(Duration::ZERO));
    parks[1] = fails_for(scene.event(1), "", 1, Some(LONG));
    parks[2] = fails_for(scene.event(2), "", 1, Some(Duration::ZERO));
    scene.park(harness, &parks).await;
    for limit in [1, 2, 3, 5, 100] {
        let due = scene.due(harness, limit).await;
        assert!(!due.is_empty(), "something is due, with a limit of {limit}");
        for key in 0..3 {
            let of_key: Vec<u64> = due.iter().copied().filter(|n| n % 3 == key).collect();
            let all_of_key: Vec<u64> = (0..4).map(|n| n * 3 + key).collect();
            assert!(all_of_key.starts_with(&of_key), "the first ones of key {key} in order, with {limit}: {due:?}");
            assert!(key != 1 || of_key.is_empty(), "key 1 is not due: {due:?}");
        }
    }
    assert_eq!(scene.due(harness, 100).await.len(), 8, "all that are due");
}

/// Publishing the last parked event of a key frees it; before, the key stays blocked and the rest of it is due.
pub async fn the_last_republished_event_frees_the_key<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events = [numbered("a", 1), numbered("a", 2), numbered("a", 3), numbered("b", 4), numbered("a", 5)];
    let scene = Scene::write(harness, &events).await;
    let [a1, a2, a3, b4, a5] = [0, 1, 2, 3, 4].map(|n| scene.event(n));
    scene.park(harness, &[fails(a1), behind(a2), behind(a3), fails(b4)]).await;
    log.redrive(&scene.consumer, &Redrive::Event(a1.origin.sequence)).await.expect("redrive");
    assert_eq!(scene.due(harness, 10).await, [1, 2, 3]);

    let redriven = async |events: &[_]| log.redriven(&scene.member.fence, events).await.expect("redriven");
    assert_eq!(redriven(&[republished(a1)]).await, [Redriven::KeyBlocked], "two are left");
    assert_eq!(scene.due(harness, 10).await, [2, 3], "the rest is still due");
    assert_eq!(scene.park(harness, &[behind(a5)]).await, [Parked::Yes], "blocked until the last one went");
    let answers = redriven(&[republished(a2), republished(a3)]).await;
    assert_eq!(answers, [Redriven::KeyBlocked; 2], "one came while the others went");
    assert_eq!(scene.due(harness, 10).await, [5]);
    let answers = redriven(&[republished(a5), republished(b4)]).await;
    assert_eq!(answers, [Redriven::KeyFree, Redriven::KeyFree], "each key is empty");
    assert_eq!(scene.blocked(harness).await, [""; 0]);
    assert_eq!(scene.parked(harness).await, []);
    assert_eq!(scene.park(harness, &[behind(a5)]).await, [Parked::NotBlocked], "the key flows again");
    assert_eq!(redriven(&[republished(a5)]).await, [Redriven::KeyFree], "repeating it is harmless");
    assert!(!log.renew(&scene.member.fence, LONG).await.expect("renew").redrive, "nothing is left");
}

/// An event that fails again when somebody asked for it waits again as its new failure says, in its place, with those
/// behind it.
pub async fn failing_again_ends_the_request<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness, &[numbered("a", 1), numbered("a", 2), numbered("a", 3)]).await;
    let [first, second, third] = [0, 1, 2].map(|n| scene.event(n));
    scene.park(harness, &[fails(first), behind(second), behind(third)]).await;
    log.redrive(&scene.consumer, &Redrive::All).await.expect("redrive");
    assert_eq!(scene.due(harness, 10).await, [1, 2, 3]);
    scene.park(harness, &[fails_for(first, "still", 2, None)]).await;
    assert_eq!(scene.due(harness, 10).await, [0; 0], "it waits again");
    assert!(!log.renew(&scene.member.fence, LONG).await.expect("renew").redrive);
    assert_eq!(scene.parked(harness).await[0].attempts, 2);

    // The first one goes, the second fails in its place.
    log.redrive(&scene.consumer, &Redrive::All).await.expect("redrive");
    assert_eq!(scene.due(harness, 10).await, [1, 2, 3]);
    log.redriven(&scene.member.fence, &[republished(first)]).await.expect("redriven");
    scene.park(harness, &[fails_for(second, "me too", 1, None)]).await;
    assert_eq!(scene.due(harness, 10).await, [0; 0], "it waits for somebody");
    assert_eq!(scene.states(harness).await, [ParkState::Parked, ParkState::Behind]);
    log.redrive(&scene.consumer, &Redrive::All).await.expect("redrive");
    assert_eq!(scene.due(harness, 10).await, [2, 3], "in the order of the key");
}

/// A request that is made while an attempt is under way asks for another one: it stands when that attempt fails, also
/// when the owner looked again meanwhile, and when it is told of the failure twice.
pub async fn a_request_outlives_an_attempt_that_began_before_it<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness, &[numbered("a", 1), numbered("a", 2)]).await;
    let [first, second] = [0, 1].map(|n| scene.event(n));
    let ask = async || log.redrive(&scene.consumer, &Redrive::All).await.expect("redrive");
    scene.park(harness, &[fails_for(first, "", 1, Some(Duration::ZERO)), behind(second)]).await;
    assert_eq!(scene.due(harness, 10).await, [1, 2], "an attempt begins");
    ask().await;
    assert_eq!(scene.due(harness, 10).await, [1, 2], "another look begins no other attempt");
    scene.park(harness, &[fails_for(first, "once", 2, None)]).await;
    assert!(log.renew(&scene.member.fence, LONG).await.expect("renew").redrive, "asked for since the attempt began");
    assert_eq!(scene.due(harness, 10).await, [1, 2], "the attempt that was asked for");
    let failed = [fails_for(first, "twice", 3, None)];
    scene.park(harness, &failed).await;
    assert_eq!(scene.due(harness, 10).await, [0; 0], "nobody asked for a third one");

    ask().await;
    scene.park(harness, &failed).await;
    assert_eq!(scene.due(harness, 10).await, [1, 2], "asked for since it failed, though it is told so again");
    ask().await;
    log.redriven(&scene.member.fence, &[republished(first)]).await.expect("redriven");
    scene.park(harness, &[fails_for(second, "me too", 1, None)]).await;
    assert_eq!(scene.due(harness, 10).await, [2], "asked for since the attempt at both began");
    scene.park(harness, &[fails_for(second, "again", 2, None)]).await;
    assert_eq!(scene.due(harness, 10).await, [0; 0], "it waits for somebody");
}

/// A discarded event is parked no more, and kept with the reason; without a reason nothing happens.
pub async fn a_discard_keeps_the_event_and_the_reason<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness, &[numbered("a", 1), numbered("b", 2)]).await;
    let [a, b] = [0, 1].map(|n| scene.event(n));
    scene.park(harness, &[fails_for(a, "refused", 7, None), fails(b)]).await;
    let parked = scene.parked(harness).await;
    for blank in ["", " \t\n"] {
        let refused = log.discard(&scene.consumer, a.origin.sequence, blank).await.expect_err("a blank reason");
        assert_eq!(refused.kind(), LogErrorKind::BadName, "{refused}");
    }
    assert_eq!(scene.parked(harness).await, parked, "nothing happens without a reason");

    let discard =
        async || log.discard(&scene.consumer, a.origin.sequence, "ticket 4711: не наш").await.expect("discard");
    assert!(discard().await, "it was parked");
    assert!(!discard().await, "it is parked no more");
    assert_eq!(scene.parked(harness).await, parked[1..], "the other event is untouched");
    let discarded = log.discarded(&scene.consumer, None, 10).await.expect("discarded");
    assert_eq!(discarded.len(), 1, "{discarded:?}");
    assert_eq!((&discarded[0].parked, discarded[0].discard_reason.as_str()), (&parked[0], "ticket 4711: не наш"));
    assert!(discarded[0].discarded_at >= parked[0].parked_at, "{discarded:?}");
    assert_eq!(log.discarded(&scene.consumer, Some(a.origin.sequence), 10).await.expect("discarded"), []);
}

/// When the failed event of a key is discarded, those behind it are due at once, in order; discarding one behind it
/// changes nothing for the others.
pub async fn a_discard_lets_those_behind_go<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events: Vec<_> = (1..=4).map(|n| numbered("a", n)).collect();
    let scene = Scene::write(harness, &events).await;
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|n| scene.event(n));
    scene.park(harness, &[fails(first), behind(second), behind(third), behind(fourth)]).await;
    let discard = async |sequence| log.discard(&scene.consumer, sequence, "wrong").await.expect("discard");
    assert!(discard(second.origin.sequence).await);
    assert_eq!(scene.due(harness, 10).await, [0; 0], "the failed one still holds the key");
    assert!(discard(first.origin.sequence).await);
    assert_eq!(scene.due(harness, 10).await, [3, 4], "those behind it");
    assert!(log.renew(&scene.member.fence, LONG).await.expect("renew").redrive);
    assert_eq!(scene.blocked(harness).await, ["Suite/a"], "blocked until they went");
}

/// Discarding the last parked event of a key frees it, and a member that publishes the event at that moment is told so.
pub async fn discarding_the_last_event_frees_the_key<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness, &[numbered("a", 1), numbered("a", 2)]).await;
    let [first, second] = [0, 1].map(|n| scene.event(n));
    scene.park(harness, &[fails(first)]).await;
    assert_eq!(scene.blocked(harness).await, ["Suite/a"]);
    assert!(log.discard(&scene.consumer, first.origin.sequence, "wrong").await.expect("discard"));
    assert_eq!(scene.blocked(harness).await, [""; 0], "the key is free");
    assert_eq!(scene.park(harness, &[behind(second)]).await, [Parked::NotBlocked], "the key flows again");
    let answers = log.redriven(&scene.member.fence, &[republished(first)]).await.expect("redriven");
    assert_eq!(answers, [Redriven::KeyFree], "of an event that somebody discarded meanwhile");
    assert_eq!(scene.park(harness, &[fails(first)]).await, [Parked::Yes], "it failed again instead");
    assert_eq!(scene.parked(harness).await, [], "but stays discarded");
    assert_eq!(scene.blocked(harness).await, [""; 0], "and blocks nothing");
}
