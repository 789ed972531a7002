//! What members are promised: leases, hand-over, take-over, places.

use futures_util::FutureExt;

use super::{
    LogHarness,
    steps::{
        LONG, all_lanes, assert_fenced, at, by_lane, expire, ids, info, join, join_alone, join_two, new_ids, place,
        read_on, read_page, register, sorted, whole, write,
    },
};
use crate::{
    event::LaneSet,
    log::{Claim, EventLog, MemberId, StartAt, lanes_of},
    testing::event::numbered,
};

/// While a member's lease runs, another gets no lane of it, neither by joining nor by renewing.
pub async fn a_live_member_keeps_its_lanes<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (first, _) = join_alone(log, &consumer).await;
    let second = join(log, &consumer).await;
    assert_eq!(second.tracks, [], "the lanes of a live member");
    assert_eq!(log.renew(&second.fence, LONG).await.expect("renew").gained, [], "the lanes of a live member");
    log.checkpoint(&first.fence, &whole(log, &start).await).await.expect("the first member still owns every lane");
}

/// A member that joins again, as after an answer it never got, gets what it owned before and a new fence; the old one is
/// worthless.
pub async fn a_member_may_join_again<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1)]).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    for claim in [Claim::Share, Claim::All] {
        let member = MemberId::random();
        let first = log.join(&consumer, member, claim, LONG).await.expect("join");
        log.checkpoint(&first.fence, &whole(log, &end).await).await.expect("checkpoint");
        let again = log.join(&consumer, member, claim, LONG).await.expect("join");
        assert!(again.fence.epoch > first.fence.epoch, "epochs rise");
        assert_eq!(again.tracks, whole(log, &end).await, "at the place of its own checkpoint");
        assert_fenced(
            log.checkpoint(&first.fence, &whole(log, &start).await).await,
            "checkpoint as before joining again",
        );
        log.checkpoint(&again.fence, &again.tracks).await.expect("the newest fence is good");
        assert_eq!(info(log, &consumer).await.members.len(), 1, "it is one member");
        log.leave(&again.fence).await.expect("leave");
    }
}

/// A member that leaves hands over without waiting for its lease, at its last checkpoint; its fence is worthless
/// afterwards.
pub async fn leaving_hands_over_at_once<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1)]).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    let (first, _) = join_alone(log, &consumer).await;
    log.checkpoint(&first.fence, &whole(log, &end).await).await.expect("checkpoint");
    log.leave(&first.fence).await.expect("leave");
    assert_eq!(info(log, &consumer).await.free_lanes, all_lanes(log).await);
    let (second, cursor) = join_alone(log, &consumer).await;
    assert_eq!(cursor, end, "at the last checkpoint");
    assert_ne!(second.fence, first.fence);
    assert_fenced(log.renew(&first.fence, LONG).await, "renew after leaving");
}

/// A member whose lease ran out is expelled as a whole by the next one that joins, who gets its lanes with a higher
/// epoch.
pub async fn an_expired_member_is_expelled<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1)]).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    let (first, _) = join_alone(log, &consumer).await;
    log.checkpoint(&first.fence, &whole(log, &end).await).await.expect("checkpoint");
    expire(log, &first.fence).await;
    let (second, cursor) = join_alone(log, &consumer).await;
    assert_eq!(cursor, end, "at the last checkpoint");
    assert!(second.fence.epoch > first.fence.epoch, "a takeover raises the epoch");
    let members: Vec<_> = info(log, &consumer).await.members.iter().map(|m| m.epoch).collect();
    assert_eq!(members, [second.fence.epoch], "nothing is left of the first member");
    assert_fenced(log.renew(&first.fence, LONG).await, "renew after a takeover");
}

/// One whose lease ran out loses all its lanes, though whoever comes needs only some of them; who lives keeps its own.
pub async fn an_expired_member_loses_every_lane_at_once<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (first, second) = join_two(log, &consumer).await;
    let third = join(log, &consumer).await;
    assert_eq!(third.tracks, [], "nothing is free");
    expire(log, &first.fence).await;
    let gained = log.renew(&third.fence, LONG).await.expect("renew").gained;
    assert!(first.lanes().difference(lanes_of(&gained)).is_empty(), "the lanes of the first member: {gained:?}");
    assert_eq!(lanes_of(&gained).intersection(second.lanes()), LaneSet::EMPTY, "none of a live member: {gained:?}");
    assert_fenced(log.checkpoint(&first.fence, &first.tracks).await, "checkpoint of an expelled member");
    log.checkpoint(&second.fence, &at(&start, second.lanes())).await.expect("the second member still owns its lanes");
}

/// Renewing makes the lease count from now, also when it ran out and nobody took over.
pub async fn renewing_keeps_the_lanes<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (first, _) = join_alone(log, &consumer).await;
    expire(log, &first.fence).await;
    log.renew(&first.fence, LONG).await.expect("renew");
    let second = join(log, &consumer).await;
    assert_eq!(second.tracks, [], "the renewed lease holds");
    log.checkpoint(&first.fence, &whole(log, &start).await).await.expect("the fence is still good");
}

/// The next member begins at the last checkpoint: what was checkpointed does not come again, the rest does, in order.
pub async fn the_successor_starts_at_the_checkpoint<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events: Vec<_> = (0..20).map(|n| numbered("key", n)).collect();
    write(harness, &events).await;
    let (consumer, _) = register(log, "suite", StartAt::Beginning).await;
    let lanes = all_lanes(log).await;

    let mut read = Vec::new();
    // Each member reads two pages and checkpoints only the first.
    loop {
        let (member, cursor) = join_alone(log, &consumer).await;
        let page = read_page(log, &cursor, lanes, 3).await;
        let _not_checkpointed = read_page(log, &page.next, lanes, 3).await;
        log.checkpoint(&member.fence, &at(&page.next, lanes)).await.expect("checkpoint");
        log.leave(&member.fence).await.expect("leave");
        read.extend(page.events);
        assert!(read.len() <= events.len(), "what was checkpointed comes again");
        if page.caught_up {
            break;
        }
    }
    assert_eq!(ids(&read), new_ids(&events));
}

/// [`EventLog::progress`] shows the checkpoint's cursor and how far it is from the newest position.
pub async fn progress_follows_the_checkpoint<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let empty = log.progress(&consumer).await.expect("progress");
    assert_eq!((empty.position, empty.head), (0, 0), "nothing was issued yet");

    write(harness, &[numbered("a", 1), numbered("b", 2)]).await;
    let (read, end) = read_on(log, &start).await;
    let highest = read.iter().map(|r| r.origin.sequence.position()).max().expect("two events");
    let behind = log.progress(&consumer).await.expect("progress");
    assert_eq!(place(log, &consumer).await, start);
    assert!(behind.position < highest && behind.head >= highest, "{behind:?}, highest {highest}");

    let (member, _) = join_alone(log, &consumer).await;
    log.checkpoint(&member.fence, &whole(log, &end).await).await.expect("checkpoint");
    let done = log.progress(&consumer).await.expect("progress");
    assert_eq!(place(log, &consumer).await, end);
    assert!(done.position >= highest && done.position <= done.head, "{done:?}, highest {highest}");
}

/// A call that is dropped before it ends has all of its effect or none, and calling again works.
pub async fn dropped_calls_have_all_or_no_effect<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events: Vec<_> = (0..5).map(|n| numbered("key", n)).collect();
    write(harness, &events).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    let tracks = whole(log, &end).await;
    let member = MemberId::random();

    let _dropped = log.join(&consumer, member, Claim::Share, LONG).now_or_never();
    let assignment = log.join(&consumer, member, Claim::Share, LONG).await.expect("join");
    assert_eq!(assignment.lanes(), all_lanes(log).await);
    let _dropped = log.read(&assignment.tracks, 100).now_or_never();
    assert_eq!(sorted(ids(&read_on(log, &start).await.0)), sorted(new_ids(&events)));
    let _dropped = log.renew(&assignment.fence, LONG).now_or_never();
    let _dropped = log.checkpoint(&assignment.fence, &tracks).now_or_never();
    let cursor = place(log, &consumer).await;
    assert!(cursor == start || cursor == end, "half a checkpoint: {cursor:?}");
    log.checkpoint(&assignment.fence, &tracks).await.expect("checkpoint");
    assert_eq!(place(log, &consumer).await, end);
    let _dropped = log.release(&assignment.fence, &tracks).now_or_never();
    let owned = info(log, &consumer).await.members[0].lanes;
    assert!(owned.is_empty() || owned == assignment.lanes(), "half a release: {owned:?}");
    let again = log.join(&consumer, member, Claim::Share, LONG).await.expect("join");
    assert_eq!(by_lane(&again.tracks), by_lane(&tracks), "every lane, at the place released");
}
