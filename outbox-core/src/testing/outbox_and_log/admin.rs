//! What operators are promised.

use super::{
    LogHarness,
    parking::Scene,
    steps::{
        LONG, all_lanes, assert_fenced, at, behind, consumer, expire, fails, ids, in_order_of, info, join, join_alone,
        join_two, new_ids, place, read_on, register, republished, whole, write,
    },
};
use crate::{
    event::{LaneSet, RecordedEvent, Sequence},
    log::{
        Claim, EventLog, EventStatus, LogAdmin, LogErrorKind, MemberId, ParkState, Redrive, RetentionPolicy, StartAt,
    },
    testing::event::numbered,
};

/// Operators who name a consumer that was never registered are told so: [`LogErrorKind::UnknownConsumer`].
pub async fn operators_are_told_of_an_unknown_consumer<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1)]).await;
    let stranger = consumer("stranger");
    let first = Sequence::new(0, 1).expect("sequence");
    let answers = [
        ("set_paused", log.set_paused(&stranger, true).await.err()),
        ("drop_consumer", log.drop_consumer(&stranger).await.err()),
        ("parked", log.parked(&stranger, None, 1).await.err()),
        ("redrive", log.redrive(&stranger, &Redrive::All).await.err()),
        ("discard", log.discard(&stranger, first, "wrong").await.err()),
        ("discarded", log.discarded(&stranger, None, 1).await.err()),
        ("event_status", log.event_status(&stranger, first).await.err()),
    ];
    for (operation, error) in answers {
        let kind = error.map(|error| error.kind());
        assert_eq!(kind, Some(LogErrorKind::UnknownConsumer), "{operation} of a stranger");
    }
    assert_eq!(log.consumers().await.expect("consumers"), []);
}

/// Consumers are listed by name, with their members, whose lanes and leases are told, and the lanes that nobody owns.
pub async fn consumers_are_listed_with_their_members<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let all = all_lanes(log).await;
    for name in ["b", "a", "c"] {
        register(log, name, StartAt::Beginning).await;
    }
    let names: Vec<String> = log.consumers().await.expect("consumers").iter().map(|c| c.name.to_string()).collect();
    assert_eq!(names, ["a", "b", "c"], "by name");
    let a = info(log, &consumer("a")).await;
    assert_eq!((a.members, a.free_lanes), (Vec::new(), all), "nobody joined");

    let (first, second) = join_two(log, &consumer("a")).await;
    let members = info(log, &consumer("a")).await.members;
    assert_eq!(members.len(), 2, "{members:?}");
    for member in [&first, &second] {
        let info = members.iter().find(|m| m.member == member.fence.member).expect("a member is listed");
        assert_eq!((info.epoch, info.lanes, info.live), (member.fence.epoch, member.lanes(), true));
    }
    expire(log, &second.fence).await;
    let a = info(log, &consumer("a")).await;
    let live: Vec<_> = a.members.iter().map(|m| (m.member, m.live, m.lanes)).collect();
    assert!(live.contains(&(second.fence.member, false, second.lanes())), "its lease ended, it still owns: {live:?}");
    assert!(live.contains(&(first.fence.member, true, first.lanes())), "{live:?}");
    assert_eq!(a.free_lanes, LaneSet::EMPTY);
    log.leave(&first.fence).await.expect("leave");
    assert_eq!(info(log, &consumer("a")).await.free_lanes, first.lanes());
    assert_eq!(info(log, &consumer("b")).await.free_lanes, all, "another consumer");
}

/// The list tells how far a consumer is: its lowest position, its last checkpoint, what is parked, and since when
/// something waits.
pub async fn consumers_are_listed_with_their_lag<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let second = |n: i64| chrono::DateTime::from_timestamp(1_700_000_000 + n, 0).expect("a time");
    let events: Vec<_> =
        (0..4).map(|n| numbered(["a", "b", "a", "c"][n as usize], n).with_created_at(second(n as i64))).collect();
    let scene = Scene::write(harness, &events).await;
    let listed = async || info(log, &scene.consumer).await;
    let last = scene.event(3).origin.sequence.position();
    let fresh = listed().await;
    assert_eq!((fresh.position, fresh.checkpoint_at, fresh.parked, fresh.blocked_keys), (0, None, 0, 0));
    assert_eq!(fresh.oldest_pending, Some(second(0)), "nothing was passed");
    assert!(fresh.head >= last, "{fresh:?}");

    scene.park(harness, &[fails(scene.event(0)), behind(scene.event(2))]).await;
    let parked = listed().await;
    assert_eq!((parked.parked, parked.blocked_keys), (2, 1), "two events of one key");
    assert_eq!(parked.oldest_pending, Some(second(1)), "the first one that is neither passed nor parked");

    log.checkpoint(&scene.member.fence, &whole(log, &scene.end).await).await.expect("checkpoint");
    let done = listed().await;
    assert!(done.position >= last && done.position <= done.head, "{done:?}");
    assert!(done.checkpoint_at.is_some_and(|at| at >= done.created_at), "{done:?}");
    assert_eq!((done.parked, done.oldest_pending), (2, None), "everything is passed or parked");
    log.redriven(&scene.member.fence, &[republished(scene.event(0))]).await.expect("redriven");
    assert!(log.discard(&scene.consumer, scene.event(2).origin.sequence, "wrong").await.expect("discard"));
    let free = listed().await;
    assert_eq!((free.parked, free.blocked_keys), (0, 0), "nothing is parked any more");
}

/// A pause is told to those who join and those who renew, until it ends; lanes and places stay.
pub async fn a_pause_is_told_to_members<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (name, start) = register(log, "suite", StartAt::Beginning).await;
    let (other, _) = register(log, "other", StartAt::Beginning).await;
    let (member, _) = join_alone(log, &name).await;
    assert!(!member.paused);
    let told = async || log.renew(&member.fence, LONG).await.expect("renew").paused;
    assert!(!told().await);
    for _ in 0..2 {
        log.set_paused(&name, true).await.expect("pause");
        assert!(told().await, "paused");
    }
    assert!(info(log, &name).await.paused);
    assert!(join(log, &name).await.paused, "told to who joins");
    assert!(!join(log, &other).await.paused, "another consumer goes on");
    log.checkpoint(&member.fence, &whole(log, &start).await).await.expect("what is under way may end");
    for _ in 0..2 {
        log.set_paused(&name, false).await.expect("go on");
        assert!(!told().await, "it goes on");
    }
}

/// A consumer that is dropped is gone: its members are fenced, for ever, and its parked events forgotten. Registered
/// again it starts where it asks to.
pub async fn dropping_a_consumer_forgets_it<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness, &[numbered("a", 1), numbered("b", 2)]).await;
    let (other, start) = register(log, "other", StartAt::Beginning).await;
    let old = &scene.member.fence;
    scene.park(harness, &[fails(scene.event(0))]).await;
    log.checkpoint(old, &whole(log, &scene.end).await).await.expect("checkpoint");
    log.drop_consumer(&scene.consumer).await.expect("drop");
    let names: Vec<_> = log.consumers().await.expect("consumers").into_iter().map(|info| info.name).collect();
    assert_eq!(names, std::slice::from_ref(&other));
    assert_eq!(log.progress(&scene.consumer).await.expect_err("dropped").kind(), LogErrorKind::UnknownConsumer);
    assert_eq!(log.drop_consumer(&scene.consumer).await.expect_err("dropped").kind(), LogErrorKind::UnknownConsumer);
    assert_fenced(log.renew(old, LONG).await, "renewing as a member of a dropped consumer");
    assert_fenced(log.checkpoint(old, &whole(log, &start).await).await, "a checkpoint of a dropped consumer");
    assert_fenced(log.park(old, &[fails(scene.event(1))]).await, "parking for a dropped consumer");

    let (again, place) = register(log, scene.consumer.as_str(), StartAt::Beginning).await;
    assert_eq!(ids(&read_on(log, &place).await.0).len(), 2, "everything comes again");
    let rejoined = log.join(&again, old.member, Claim::Share, LONG).await.expect("join");
    assert_fenced(log.checkpoint(old, &whole(log, &scene.end).await).await, "a checkpoint from before the drop");
    assert_eq!(log.blocked_keys(&rejoined.fence).await.expect("blocked keys"), [""; 0], "nothing is parked");
    assert_eq!(log.parked(&again, None, 10).await.expect("parked"), []);
    assert_eq!(self::place(log, &other).await, start, "the other consumer keeps its place");
}

/// Parked and discarded events are listed in pages, in the order of their sequences.
pub async fn parked_events_are_listed_in_pages<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events: Vec<_> = (0..5).map(|n| numbered(&format!("key-{n}"), n)).collect();
    let scene = Scene::write(harness, &events).await;
    let mut parks: Vec<_> = scene.events.iter().map(fails).collect();
    parks.reverse();
    scene.park(harness, &parks).await;
    let sequences: Vec<_> = scene.events.iter().map(|r| r.origin.sequence).collect();
    let page = async |after, limit| {
        let parked = log.parked(&scene.consumer, after, limit).await.expect("parked");
        parked.iter().map(|parked| parked.event.origin.sequence).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2).await, sequences[..2]);
    assert_eq!(page(Some(sequences[1]), 2).await, sequences[2..4]);
    assert_eq!(page(Some(sequences[3]), 2).await, sequences[4..]);
    for sequence in &sequences {
        assert!(log.discard(&scene.consumer, *sequence, "wrong").await.expect("discard"));
    }
    let page = async |after, limit| {
        let discarded = log.discarded(&scene.consumer, after, limit).await.expect("discarded");
        discarded.iter().map(|discarded| discarded.parked.event.origin.sequence).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 3).await, sequences[..3]);
    assert_eq!(page(Some(sequences[2]), 3).await, sequences[3..]);
}

/// An event is pending until a checkpoint passes it, then published at that time; parked and discarded ones say so; one
/// that was passed before the history begins was published at an unknown time.
pub async fn the_status_of_an_event_follows_its_fate<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events: Vec<_> = (0..4).map(|n| numbered(&format!("key-{n}"), n)).collect();
    let scene = Scene::write(harness, &events).await;
    let status = async |event: &RecordedEvent| {
        let sequence = event.origin.sequence;
        log.event_status(&scene.consumer, sequence).await.expect("status").expect("the log has the event")
    };
    let [plain, retried, parked, discarded] = [0, 1, 2, 3].map(|n| scene.event(n));
    assert_eq!(status(plain).await, EventStatus::Pending);
    let soon = super::steps::fails_for(retried, "", 1, Some(LONG));
    scene.park(harness, &[soon, fails(parked), fails(discarded)]).await;
    assert!(log.discard(&scene.consumer, discarded.origin.sequence, "wrong").await.expect("discard"));
    let before = info(log, &scene.consumer).await.checkpoint_at;
    log.checkpoint(&scene.member.fence, &whole(log, &scene.end).await).await.expect("checkpoint");
    let written = info(log, &scene.consumer).await.checkpoint_at.expect("a checkpoint was written");
    assert_eq!(before, None);
    assert_eq!(status(plain).await, EventStatus::Published(Some(written)), "at the checkpoint that passed it");
    assert_eq!(status(retried).await, EventStatus::Parked(ParkState::Retrying));
    assert_eq!(status(parked).await, EventStatus::Parked(ParkState::Parked));
    assert_eq!(status(discarded).await, EventStatus::Discarded);

    log.checkpoint(&scene.member.fence, &whole(log, &scene.end).await).await.expect("checkpoint");
    assert_eq!(status(plain).await, EventStatus::Published(Some(written)), "at the first one that passed it");
    let later = Sequence::new(0, 1_000_000).expect("sequence");
    assert_eq!(log.event_status(&scene.consumer, later).await.expect("status"), None, "no such event");
    let (late, _) = register(log, "late", StartAt::End).await;
    let unknown = log.event_status(&late, plain.origin.sequence).await.expect("status");
    assert_eq!(unknown, Some(EventStatus::Published(None)), "before the consumer was registered");
}

/// An event in a lane that lags behind is pending, though others have passed its position.
pub async fn the_status_of_an_event_is_that_of_its_lane<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let all = all_lanes(log).await;
    let scene = Scene::write(harness, &(0..2).map(|n| numbered(&format!("key-{n}"), n)).collect::<Vec<_>>()).await;
    let [lagging, ahead] = [0, 1].map(|n| scene.event(n));
    assert_ne!(lagging.lane, ahead.lane, "two lanes");
    let (start, behind) = (place(log, &scene.consumer).await, LaneSet::from_iter([lagging.lane]));
    let tracks = [at(&scene.end, all.difference(behind)), at(&start, behind)].concat();
    log.checkpoint(&scene.member.fence, &tracks).await.expect("checkpoint");
    let status = async |event: &RecordedEvent| {
        log.event_status(&scene.consumer, event.origin.sequence).await.expect("status").expect("the log has the event")
    };
    assert_eq!(status(lagging).await, EventStatus::Pending);
    let written = info(log, &scene.consumer).await.checkpoint_at;
    assert_eq!(status(ahead).await, EventStatus::Published(written));
    assert_eq!(info(log, &scene.consumer).await.position, 0, "the lowest position of its lanes");
}

/// People see all committed events in the order of positions, in pages, whoever has consumed them.
pub async fn people_see_the_committed_events<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events: Vec<_> = (0..5).map(|n| numbered(&format!("key-{n}"), n)).collect();
    for event in &events {
        write(harness, std::slice::from_ref(event)).await;
    }
    let mut tx = harness.begin().await;
    let _receipt = crate::outbox::Outbox::append(log, &mut tx, &[numbered("lost", 9)]).await.expect("append");
    harness.rollback(tx).await;
    let read = in_order_of(&events, &super::steps::read_all(log).await);
    let tail = async |after, limit| log.tail(after, limit).await.expect("tail");
    assert_eq!(tail(None, 10).await, read, "as consumers read them");
    assert_eq!(ids(&tail(None, 2).await), new_ids(&events[..2]));
    assert_eq!(ids(&tail(Some(read[1].origin.sequence), 2).await), new_ids(&events[2..4]));
    assert_eq!(tail(Some(read[4].origin.sequence), 2).await, []);
    assert_eq!(log.tail(None, 0).await.expect("tail"), []);
}

/// Operators' commands are harmless when nothing is there to do.
pub async fn commands_without_effect_are_harmless<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (name, start) = register(log, "suite", StartAt::Beginning).await;
    assert_eq!(log.redrive(&name, &Redrive::All).await.expect("redrive"), 0);
    assert!(!log.discard(&name, Sequence::new(0, 1).expect("sequence"), "wrong").await.expect("discard"));
    assert_eq!(log.discarded(&name, None, 10).await.expect("discarded"), []);
    assert_eq!(log.tail(None, 10).await.expect("tail"), []);
    let pruned = log.prune(&RetentionPolicy::default()).await.expect("prune");
    assert_eq!((pruned.removed, pruned.more, pruned.held_back_by), (0, false, None), "an empty log");
    assert_eq!(place(log, &name).await, start);
    let never_joined = crate::log::Fence { consumer: name, member: MemberId::random(), epoch: 0 };
    assert_fenced(log.renew(&never_joined, LONG).await, "renewing without having joined");
}
