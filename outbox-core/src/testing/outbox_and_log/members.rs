//! What consumers and their members are promised: places, leases, fences.

use std::time::Duration;

use futures_util::FutureExt;

use super::{LogHarness, all_lanes, consumer, forged, ids, new_ids, read_on, register, sorted, write};
use crate::{
    log::{Assignment, ConsumerName, EventLog, Fence, LogError, LogErrorKind, MemberId, StartAt},
    testing::{event::numbered, suite::within},
};

/// Longer than any case: does not run out.
const LONG: Duration = Duration::from_hours(1);

/// Runs out before anybody looks.
const SHORT: Duration = Duration::from_millis(1);

/// A consumer that was never registered cannot join and has no progress: [`LogErrorKind::UnknownConsumer`].
pub async fn an_unknown_consumer_is_refused<H: LogHarness>(harness: &H) {
    let stranger = consumer("stranger");
    let joined = harness.log().join(&stranger, MemberId::random(), LONG).await;
    assert_eq!(joined.expect_err("join").kind(), LogErrorKind::UnknownConsumer);
    let progress = harness.log().progress(&stranger).await;
    assert_eq!(progress.expect_err("progress").kind(), LogErrorKind::UnknownConsumer);
}

/// Registering a known consumer changes nothing, wherever it asks to start.
pub async fn registering_again_keeps_the_place<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1)]).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    for again in [StartAt::End, StartAt::Beginning] {
        assert_eq!(register(log, "suite", again).await.1, start, "registered again from {again:?}");
    }
    let assignment = join(log, &consumer).await;
    log.checkpoint(&assignment.fence, &end).await.expect("checkpoint");
    assert_eq!(register(log, "suite", StartAt::Beginning).await.1, end, "registered again after a checkpoint");
}

/// A consumer registered at the end sees only what is committed later.
pub async fn starting_at_the_end_sees_only_later_events<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1), numbered("b", 2)]).await;
    let (consumer, start) = register(log, "suite", StartAt::End).await;
    let later = numbered("a", 3);
    write(harness, std::slice::from_ref(&later)).await;
    assert_eq!(ids(&read_on(log, &start).await.0), [later.event().id]);
    let assignment = join(log, &consumer).await;
    assert_eq!(ids(&read_on(log, &assignment.cursor).await.0), [later.event().id]);
}

/// Each consumer has members and a checkpoint of its own.
pub async fn consumers_do_not_share_a_place<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1)]).await;
    let (one, start) = register(log, "one", StartAt::Beginning).await;
    let (other, _) = register(log, "other", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    let assignment = join(log, &one).await;
    let second = join(log, &other).await;
    log.checkpoint(&assignment.fence, &end).await.expect("checkpoint");
    assert_eq!(log.progress(&other).await.expect("progress").cursor, start, "the other consumer did not move");
    log.checkpoint(&second.fence, &end).await.expect("the other consumer's own fence is good");
}

/// While a member's lease runs, another gets no lane of it.
pub async fn a_live_member_keeps_its_lanes<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, _) = register(log, "suite", StartAt::Beginning).await;
    let assignment = join(log, &consumer).await;
    assert_eq!(assignment.lanes, all_lanes(log).await, "a lone member owns every lane");
    let second = log.join(&consumer, MemberId::random(), LONG).await.expect("join");
    assert_eq!(second, None);
    log.renew(&assignment.fence, LONG).await.expect("the first member's fence is still good");
}

/// A member that joins again, as after an answer it never got, is not refused because of itself.
pub async fn a_member_may_join_again<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, _) = register(log, "suite", StartAt::Beginning).await;
    let member = MemberId::random();
    let first = log.join(&consumer, member, LONG).await.expect("join").expect("lanes");
    let again = log.join(&consumer, member, LONG).await.expect("join").expect("lanes, again");
    assert!(again.fence.epoch >= first.fence.epoch, "epochs never go back");
    assert_eq!(again.lanes, first.lanes);
    log.checkpoint(&again.fence, &again.cursor).await.expect("the newest fence is good");
}

/// A member that leaves hands over without waiting for its lease; its fence is worthless afterwards.
pub async fn leaving_hands_over_at_once<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, _) = register(log, "suite", StartAt::Beginning).await;
    let first = join(log, &consumer).await;
    log.leave(&first.fence).await.expect("leave");
    let second = join(log, &consumer).await;
    assert_eq!(second.lanes, first.lanes);
    assert_ne!(second.fence, first.fence);
    fenced(log.renew(&first.fence, LONG).await, "renew after leaving");
}

/// A lease that ran out is taken over by a member that asks, with a higher epoch.
pub async fn an_expired_lease_is_taken_over<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, _) = register(log, "suite", StartAt::Beginning).await;
    let first = log.join(&consumer, MemberId::random(), SHORT).await.expect("join").expect("lanes");
    let second = take_over(log, &consumer).await;
    assert_eq!(second.lanes, first.lanes);
    assert!(second.fence.epoch > first.fence.epoch, "a takeover raises the epoch");
}

/// After a takeover, writes with the old fence, or with one that was never given out, are
/// [`LogErrorKind::Fenced`] and change nothing.
pub async fn a_stale_fence_changes_nothing<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1)]).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    let first = log.join(&consumer, MemberId::random(), SHORT).await.expect("join").expect("lanes");
    let second = take_over(log, &consumer).await;

    let newer = Fence { epoch: second.fence.epoch + 1, ..second.fence.clone() };
    for fence in [&first.fence, &forged(&second.fence), &newer] {
        fenced(log.checkpoint(fence, &end).await, "checkpoint");
        fenced(log.renew(fence, LONG).await, "renew");
        fenced(log.leave(fence).await, "leave");
    }
    assert_eq!(log.progress(&consumer).await.expect("progress").cursor, start, "no checkpoint was written");
    let third = log.join(&consumer, MemberId::random(), LONG).await.expect("join");
    assert_eq!(third, None, "the new member still owns its lanes");
    log.checkpoint(&second.fence, &end).await.expect("the new member's fence is good");
    assert_eq!(log.progress(&consumer).await.expect("progress").cursor, end);
}

/// Renewing makes the lease count from now, also when it ran out and nobody took over.
pub async fn renewing_keeps_the_lanes<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, _) = register(log, "suite", StartAt::Beginning).await;
    let first = log.join(&consumer, MemberId::random(), SHORT).await.expect("join").expect("lanes");
    log.renew(&first.fence, LONG).await.expect("renew");
    let second = log.join(&consumer, MemberId::random(), LONG).await.expect("join");
    assert_eq!(second, None, "the renewed lease holds");
}

/// The next member begins at the last checkpoint: what was checkpointed does not come again, the rest does, in order.
pub async fn the_successor_starts_at_the_checkpoint<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events: Vec<_> = (0..20).map(|n| numbered("key", n)).collect();
    write(harness, &events).await;
    let (consumer, _) = register(log, "suite", StartAt::Beginning).await;

    let mut read = Vec::new();
    // Each member reads two pages and checkpoints only the first.
    loop {
        let member = join(log, &consumer).await;
        let page = log.read(&member.cursor, member.lanes, 3).await.expect("read");
        let _not_checkpointed = log.read(&page.next, member.lanes, 3).await.expect("read");
        log.checkpoint(&member.fence, &page.next).await.expect("checkpoint");
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
    assert_eq!(behind.cursor, start);
    assert!(behind.position < highest && behind.head >= highest, "{behind:?}, highest {highest}");

    let assignment = join(log, &consumer).await;
    log.checkpoint(&assignment.fence, &end).await.expect("checkpoint");
    let done = log.progress(&consumer).await.expect("progress");
    assert_eq!(done.cursor, end);
    assert!(done.position >= highest && done.position <= done.head, "{done:?}, highest {highest}");
}

/// A call that is dropped before it ends has all of its effect or none, and calling again works.
pub async fn dropped_calls_have_all_or_no_effect<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events: Vec<_> = (0..5).map(|n| numbered("key", n)).collect();
    write(harness, &events).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    let member = MemberId::random();

    let _dropped = log.join(&consumer, member, LONG).now_or_never();
    let assignment = log.join(&consumer, member, LONG).await.expect("join").expect("lanes");
    let _dropped = log.read(&start, assignment.lanes, 100).now_or_never();
    assert_eq!(sorted(ids(&read_on(log, &start).await.0)), sorted(new_ids(&events)));
    let _dropped = log.renew(&assignment.fence, LONG).now_or_never();
    let _dropped = log.checkpoint(&assignment.fence, &end).now_or_never();
    let cursor = log.progress(&consumer).await.expect("progress").cursor;
    assert!(cursor == start || cursor == end, "half a checkpoint: {cursor:?}");
    log.checkpoint(&assignment.fence, &end).await.expect("checkpoint");
    assert_eq!(log.progress(&consumer).await.expect("progress").cursor, end);
}

async fn join<L: EventLog>(log: &L, consumer: &ConsumerName) -> Assignment {
    log.join(consumer, MemberId::random(), LONG).await.expect("join").expect("lanes that nobody else owns")
}

/// Asks until the lease of the owner is over: by the database's clock, which gives no signal.
async fn take_over<L: EventLog>(log: &L, consumer: &ConsumerName) -> Assignment {
    let member = MemberId::random();
    let joining = async {
        loop {
            if let Some(assignment) = log.join(consumer, member, LONG).await.expect("join") {
                return assignment;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("an expired lease is taken over", joining).await
}

fn fenced(result: Result<(), LogError>, what: &str) {
    match result {
        Err(error) => assert_eq!(error.kind(), LogErrorKind::Fenced, "{what}: {error}"),
        Ok(()) => panic!("{what} with a stale fence succeeded"),
    }
}
