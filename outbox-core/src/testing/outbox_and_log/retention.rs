//! What is promised when events are removed.

use std::time::Duration;

use chrono::Utc;

use super::{
    LogHarness,
    concurrency::concurrent,
    parking::Scene,
    steps::{
        LONG, NONE, all_lanes, at, behind, fails, fails_for, ids, join, join_alone, new_ids, place, read_all, read_on,
        read_page, read_pages, register, sorted, whole, write,
    },
};
use crate::{
    event::{LaneSet, NewEvent},
    log::{ConsumerName, Cursor, EventLog, LogAdmin, Pruned, Redrive, RetentionPolicy, StartAt},
    outbox::Outbox,
    testing::{event::numbered, number_of, suite::within},
};

/// Nothing is removed that a registered consumer has not passed, and who holds the rest back is told. What everybody
/// has passed goes.
pub async fn pruning_stays_behind_every_consumer<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (events, places) = rounds(harness, 3).await;
    let (fast, slow) = (consumer_at(log, "fast", &places[3]).await, consumer_at(log, "slow", &places[1]).await);
    prune_in_all(log, &NOTHING_KEPT, events[0].len()).await;
    let held_back = Pruned { removed: 0, more: false, held_back_by: Some(slow.clone()) };
    assert_eq!(prune(log, &NOTHING_KEPT).await, held_back, "the slow consumer keeps the rest");
    let cursor = place(log, &slow).await;
    assert_eq!(
        sorted(ids(&read_on(log, &cursor).await.0)),
        sorted(new_ids(&events[1..].concat())),
        "the slow consumer"
    );
    move_to(log, &slow, &places[2]).await;
    prune_in_all(log, &NOTHING_KEPT, events[1].len()).await;
    log.drop_consumer(&slow).await.expect("drop");
    prune_in_all(log, &NOTHING_KEPT, events[2].len()).await;
    assert_eq!(prune(log, &NOTHING_KEPT).await, Pruned::default(), "nothing is left, and nobody holds anything back");
    assert_eq!(ids(&read_on(log, &place(log, &fast).await).await.0), NONE);
}

/// One lane that lags behind, owned or not, holds back what it has not passed.
pub async fn pruning_stays_behind_a_lagging_lane<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (events, places) = rounds(harness, 2).await;
    let all = all_lanes(log).await;
    let lagging = LaneSet::from_iter([log.tail(None, 1).await.expect("tail")[0].lane]);
    let (name, start) = register(log, "suite", StartAt::Beginning).await;
    let (unread, _) = read_pages(log, &start, lagging, 100).await;
    assert!(!unread.is_empty(), "events in the lagging lane");
    let (member, _) = join_alone(log, &name).await;
    let tracks = [at(&places[2], all.difference(lagging)), at(&start, lagging)].concat();
    log.checkpoint(&member.fence, &tracks).await.expect("checkpoint");
    for owned in [true, false] {
        if !owned {
            log.leave(&member.fence).await.expect("leave");
        }
        let pruned = prune(log, &NOTHING_KEPT).await;
        assert_eq!(pruned.held_back_by, Some(name.clone()), "the lagging lane keeps its events, owned: {owned}");
        assert_eq!(read_pages(log, &start, lagging, 100).await.0, unread, "it still finds them, owned: {owned}");
    }
    move_to(log, &name, &places[2]).await;
    let left = log.tail(None, 1_000).await.expect("tail").len();
    assert!(left <= events.concat().len());
    prune_in_all(log, &NOTHING_KEPT, left).await;
}

/// An event that commits late, below positions that everybody has passed and that were removed, is still delivered.
pub async fn pruning_spares_what_commits_late<H: LogHarness>(harness: &H) {
    if !concurrent(harness, "pruning_spares_what_commits_late") {
        return;
    }
    let log = harness.log();
    let (late, early) = (numbered("late", 1), numbered("early", 2));
    let mut slow = harness.begin().await;
    let _receipt = log.append(&mut slow, std::slice::from_ref(&late)).await.expect("append");
    write(harness, std::slice::from_ref(&early)).await;
    let (name, start) = register(log, "suite", StartAt::Beginning).await;
    let (read, passed) = read_on(log, &start).await;
    assert_eq!(ids(&read), [early.event().id]);
    move_to(log, &name, &passed).await;
    prune(log, &NOTHING_KEPT).await;
    harness.commit(slow).await;
    prune(log, &NOTHING_KEPT).await;
    let (read, passed) = read_on(log, &passed).await;
    assert_eq!(ids(&read), [late.event().id], "the late event was removed before anybody read it");
    move_to(log, &name, &passed).await;
    let left = log.tail(None, 10).await.expect("tail").len();
    prune_in_all(log, &NOTHING_KEPT, left).await;
}

/// A log without consumers keeps everything: the first one may still come.
pub async fn pruning_without_consumers_removes_nothing<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events = [numbered("a", 1), numbered("b", 2)];
    write(harness, &events).await;
    assert_eq!(prune(log, &NOTHING_KEPT).await, Pruned::default());
    assert_eq!(sorted(ids(&read_all(log).await)), sorted(new_ids(&events)));
}

/// The policy keeps the newest events, by age or by number, though everybody has passed them. With both, an event stays
/// that one of them keeps.
pub async fn the_policy_keeps_the_newest_events<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (old, young) = (Utc::now() - LONG * 48, Utc::now());
    let events: Vec<_> = (0..10).map(|n| numbered("key", n).with_created_at(if n < 6 { old } else { young })).collect();
    write(harness, &events).await;
    let (name, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    move_to(log, &name, &end).await;
    let left = async || {
        log.tail(None, 100).await.expect("tail").iter().filter_map(|r| number_of(&r.event)).collect::<Vec<_>>()
    };

    let keeps_all = RetentionPolicy::default().keep_for(LONG * 72);
    assert_eq!(prune(log, &keeps_all).await, Pruned::default(), "all are younger than three days");
    let both = RetentionPolicy::default().keep_for(LONG * 24).keep_events(8);
    prune_in_all(log, &both, 2).await;
    assert_eq!(left().await, [2, 3, 4, 5, 6, 7, 8, 9], "the newest eight stay, though older than a day");
    let both = RetentionPolicy::default().keep_for(LONG * 24).keep_events(2);
    prune_in_all(log, &both, 4).await;
    assert_eq!(left().await, [6, 7, 8, 9], "those of today stay, though more than two");
    prune_in_all(log, &RetentionPolicy::default().keep_events(1), 3).await;
    assert_eq!(left().await, [9]);
    prune_in_all(log, &RetentionPolicy::default().keep_for(Duration::ZERO), 1).await;
    assert_eq!(left().await, [0; 0]);
}

/// Removing goes in steps, so that one call never takes long: it says when there is more.
pub async fn pruning_goes_in_steps<H: LogHarness>(harness: &H) {
    const MANY: usize = 12_000;
    let log = harness.log();
    let (name, _) = register(log, "suite", StartAt::Beginning).await;
    let events: Vec<NewEvent> =
        (0..MANY).map(|n| NewEvent::tombstone("Suite", n % 100, "Erased").expect("event")).collect();
    for chunk in events.chunks(1_000) {
        write(harness, chunk).await;
    }
    let end = end_of(log, &name).await;
    move_to(log, &name, &end).await;
    let policy = RetentionPolicy::default().steps(1);
    let steps = prune_in_all(log, &policy, MANY).await;
    assert!(steps.iter().all(|step| step.removed < MANY as u64), "one step of some thousand events: {steps:?}");
    let (last, others) = steps.split_last().expect("steps");
    assert!(!last.more, "nothing is left: {steps:?}");
    assert!(others.iter().any(|step| step.more), "it says that there is more: {steps:?}");
    assert_eq!(log.tail(None, 10).await.expect("tail"), []);
}

/// After everything was removed new events have new, higher positions: none is given out again. Places stay good.
pub async fn positions_are_never_given_out_again<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (name, start) = register(log, "suite", StartAt::Beginning).await;
    let mut highest = 0;
    for round in 0..3 {
        let events = [numbered("a", round), numbered("b", round)];
        write(harness, &events).await;
        let cursor = place(log, &name).await;
        let (read, end) = read_on(log, &cursor).await;
        assert_eq!(sorted(ids(&read)), sorted(new_ids(&events)), "behind the place of the last round");
        let positions: Vec<u64> = read.iter().map(|r| r.origin.sequence.position()).collect();
        assert!(positions.iter().all(|position| *position > highest), "{positions:?} after {highest}");
        highest = positions.into_iter().max().unwrap_or_default();
        move_to(log, &name, &end).await;
        prune_in_all(log, &NOTHING_KEPT, 2).await;
        assert!(log.progress(&name).await.expect("progress").head >= highest, "the head does not go back");
    }
    assert_eq!(ids(&read_on(log, &start).await.0), NONE, "the oldest cursor reads what is left");
}

/// A consumer that comes after events were removed begins at the first one that is left; a reader in the middle of
/// what was removed goes on there, too.
pub async fn reading_begins_at_the_first_event_left<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (events, places) = rounds(harness, 3).await;
    let all = all_lanes(log).await;
    let middle = read_page(log, &places[0], all, 2).await.next;
    consumer_at(log, "early", &places[2]).await;
    prune_in_all(log, &NOTHING_KEPT, events[..2].concat().len()).await;
    let expected = sorted(new_ids(&events[2]));
    let (_, start) = register(log, "late", StartAt::Beginning).await;
    for (cursor, which) in [(&start, "a new consumer"), (&places[0], "an old cursor"), (&middle, "one in between")] {
        assert_eq!(sorted(ids(&read_on(log, cursor).await.0)), expected, "{which}");
    }
}

/// Parked events stay when the log's own copy is removed: they are listed, due and published as before, and those behind
/// them keep their order.
pub async fn parked_events_survive_retention<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness, &[numbered("a", 1), numbered("b", 2), numbered("a", 3)]).await;
    scene.park(harness, &[fails(scene.event(0)), behind(scene.event(2))]).await;
    let before = scene.parked(harness).await;
    log.checkpoint(&scene.member.fence, &whole(log, &scene.end).await).await.expect("checkpoint");
    prune_in_all(log, &NOTHING_KEPT, 3).await;
    assert_eq!(log.tail(None, 10).await.expect("tail"), []);
    assert_eq!(scene.parked(harness).await, before, "as they were parked");
    scene.park(harness, &[fails_for(scene.event(0), "again", 2, None)]).await;
    assert_eq!(scene.parked(harness).await[0].attempts, 2, "it can fail again");
    log.redrive(&scene.consumer, &Redrive::All).await.expect("redrive");
    assert_eq!(scene.due(harness, 10).await, [1, 3]);
    assert!(log.discard(&scene.consumer, scene.event(0).origin.sequence, "wrong").await.expect("discard"));
    let discarded = log.discarded(&scene.consumer, None, 10).await.expect("discarded");
    assert_eq!(discarded[0].parked.event, *scene.event(0), "kept with the whole event");
}

/// Every event may go that everybody has passed.
const NOTHING_KEPT: RetentionPolicy = RetentionPolicy { keep_for: None, keep_events: None, steps: 100 };

async fn prune<L: LogAdmin>(log: &L, policy: &RetentionPolicy) -> Pruned {
    log.prune(policy).await.expect("prune")
}

/// Removes until so many events are gone, and never more; what each call said.
///
/// A log may have to spare for a while what others of its server's transactions could still need, and their end gives no
/// signal.
pub(super) async fn prune_in_all<L: LogAdmin>(log: &L, policy: &RetentionPolicy, events: usize) -> Vec<Pruned> {
    let removing = async {
        let (mut said, mut removed) = (Vec::new(), 0);
        while removed < events as u64 {
            let pruned = prune(log, policy).await;
            removed += pruned.removed;
            if pruned.removed == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            } else {
                said.push(pruned);
            }
        }
        assert_eq!(removed, events as u64, "more was removed than everybody has passed and the policy lets go");
        said
    };
    within("what everybody has passed goes", removing).await
}

/// Writes so many rounds of events, and tells the place before the first and behind each.
async fn rounds<H: LogHarness>(harness: &H, count: u64) -> (Vec<Vec<NewEvent>>, Vec<Cursor>) {
    let log = harness.log();
    let (name, start) = register(log, "rounds", StartAt::Beginning).await;
    let (mut events, mut places) = (Vec::new(), vec![start]);
    for round in 0..count {
        events.push((0..10).map(|n| numbered(&format!("key-{n}"), round)).collect::<Vec<_>>());
        write(harness, &events[events.len() - 1]).await;
        let last = &places[places.len() - 1];
        places.push(read_on(log, last).await.1);
    }
    log.drop_consumer(&name).await.expect("drop");
    (events, places)
}

/// A consumer whose lanes all stand at this place.
async fn consumer_at<L: EventLog>(log: &L, name: &str, place: &Cursor) -> ConsumerName {
    let (name, _) = register(log, name, StartAt::Beginning).await;
    move_to(log, &name, place).await;
    name
}

async fn move_to<L: EventLog>(log: &L, name: &ConsumerName, place: &Cursor) {
    let member = join(log, name).await;
    log.checkpoint(&member.fence, &whole(log, place).await).await.expect("checkpoint");
    log.leave(&member.fence).await.expect("leave");
}

/// The place behind everything.
async fn end_of<L: EventLog>(log: &L, name: &ConsumerName) -> Cursor {
    let (cursor, all) = (place(log, name).await, all_lanes(log).await);
    read_pages(log, &cursor, all, 5_000).await.1
}
