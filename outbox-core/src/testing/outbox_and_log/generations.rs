//! What is promised when positions may be issued again, as after a restore.

use super::{
    LogHarness,
    parking::Scene,
    retention::prune_in_all,
    steps::{
        LONG, all_lanes, assert_fenced, at, fails, ids, join, join_alone, meet_at_the_end, new_ids, place, read_all,
        read_tracks, register, sorted, whole, write,
    },
};
use crate::{
    event::LaneSet,
    log::{EventLog, LogAdmin, Redrive, RetentionPolicy, StartAt},
    testing::event::numbered,
};

/// Re-anchoring raises the generation for events to come and for no other: every sequence stays what it was, and new
/// ones are higher.
pub async fn reanchoring_raises_the_generation_of_new_events<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let before = log.identity().await.expect("identity");
    write(harness, &[numbered("a", 1), numbered("b", 2)]).await;
    let old = read_all(log).await;
    for generation in 1..=2 {
        let reanchored = log.reanchor().await.expect("reanchor");
        let after = log.identity().await.expect("identity");
        assert_eq!((reanchored.log, reanchored.generation), (before.id, generation), "{reanchored:?}");
        assert_eq!((after.id, after.lanes, after.generation), (before.id, before.lanes, generation), "{after:?}");
        let highest = log.tail(None, 100).await.expect("tail").into_iter().map(|r| r.origin.sequence).max();
        let event = numbered("a", u64::from(generation) + 2);
        write(harness, std::slice::from_ref(&event)).await;
        let tail = log.tail(highest, 100).await.expect("tail");
        assert_eq!(ids(&tail), [event.event().id], "behind all others");
        let new = tail[0].origin.sequence;
        assert_eq!(new.generation(), generation, "the generation of a new event");
        assert!(new.position() >= reanchored.from_position, "{new:?}, {reanchored:?}");
        assert!(Some(new) > highest, "sequences of new events are higher");
    }
    let (_, start) = register(log, "later", StartAt::Beginning).await;
    let read = read_tracks(log, &whole(log, &start).await).await;
    assert_eq!(read.len(), old.len() + 2);
    for event in &old {
        assert!(read.contains(event), "an old event keeps its sequence: {event:?}");
    }
}

/// Members are fenced when the log is re-anchored, with or without events after it; they join again as usual.
pub async fn reanchoring_fences_members<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (name, start) = register(log, "suite", StartAt::Beginning).await;
    let (member, _) = join_alone(log, &name).await;
    log.reanchor().await.expect("reanchor");
    assert_fenced(log.renew(&member.fence, LONG).await, "renewing after re-anchoring");
    assert_fenced(log.checkpoint(&member.fence, &whole(log, &start).await).await, "a checkpoint after re-anchoring");
    assert_fenced(log.leave(&member.fence).await, "leaving after re-anchoring");
    let again = log.join(&name, member.fence.member, crate::log::Claim::Share, LONG).await.expect("join");
    assert_eq!(again.lanes(), all_lanes(log).await, "every lane is free");
    assert!(again.fence.epoch > member.fence.epoch, "epochs rise");
    assert_fenced(log.renew(&member.fence, LONG).await, "renewing as before re-anchoring");
}

/// No consumer misses an event because the log was re-anchored, whatever its lanes had passed; it goes on from a place
/// of its own, with checkpoints, parked events and retention as usual.
pub async fn nothing_is_missed_when_the_log_is_reanchored<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events: Vec<_> = (0..20).map(|n| numbered(&format!("key-{n}"), n)).collect();
    let scene = Scene::write(harness, &events).await;
    scene.park(harness, &[fails(scene.event(0))]).await;
    let all = all_lanes(log).await;
    let start = place(log, &scene.consumer).await;
    let lagging: LaneSet = all.iter().filter(|lane| lane.get() % 2 == 0).collect();
    let tracks = [at(&scene.end, all.difference(lagging)), at(&start, lagging)].concat();
    log.checkpoint(&scene.member.fence, &tracks).await.expect("checkpoint");
    log.reanchor().await.expect("reanchor");
    let later = numbered("later", 1);
    write(harness, std::slice::from_ref(&later)).await;

    let member = join(log, &scene.consumer).await;
    assert_eq!(member.lanes(), all);
    let read = ids(&read_tracks(log, &member.tracks).await);
    let not_passed = scene.events.iter().filter(|r| lagging.contains(r.lane)).map(|r| r.event.id);
    for id in not_passed.chain([later.event().id]) {
        assert!(read.contains(&id), "an event that was not passed is missed: {id}");
    }
    assert_eq!(log.blocked_keys(&member.fence).await.expect("blocked keys"), ["Suite/key-0"], "still parked");
    log.redrive(&scene.consumer, &Redrive::All).await.expect("redrive");
    let due = log.due_parked(&member.fence, 10).await.expect("due");
    assert_eq!(due.iter().map(|parked| &parked.event).collect::<Vec<_>>(), [scene.event(0)], "with its old sequence");

    let end = meet_at_the_end(log, &member.tracks).await;
    log.checkpoint(&member.fence, &at(&end, all)).await.expect("a checkpoint in the new generation");
    assert_eq!(place(log, &scene.consumer).await, end);
    prune_in_all(log, &RetentionPolicy::default(), events.len() + 1).await;
}

/// The places of consumers that nobody runs survive re-anchoring as well: none misses an event, none is forgotten.
pub async fn idle_consumers_survive_reanchoring<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let first = numbered("a", 1);
    write(harness, std::slice::from_ref(&first)).await;
    let (beginning, _) = register(log, "beginning", StartAt::Beginning).await;
    let (end, _) = register(log, "end", StartAt::End).await;
    log.reanchor().await.expect("reanchor");
    let later = numbered("b", 2);
    write(harness, std::slice::from_ref(&later)).await;
    let (member, _) = join_alone(log, &beginning).await;
    let read = ids(&read_tracks(log, &member.tracks).await);
    assert_eq!(sorted(read), sorted(new_ids(&[first, later.clone()])), "from the beginning");
    let (member, _) = join_alone(log, &end).await;
    assert!(ids(&read_tracks(log, &member.tracks).await).contains(&later.event().id), "what came after its start");
}
