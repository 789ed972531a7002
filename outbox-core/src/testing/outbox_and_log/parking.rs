//! What is promised of events that are set aside.

use std::time::Duration;

use super::{
    LogHarness,
    steps::{
        LONG, all_lanes, assert_fenced, at, behind, fails, fails_for, in_order_of, join, join_alone, names_in, read_on,
        register, whole, write,
    },
};
use crate::{
    event::{NewEvent, RecordedEvent, Sequence},
    log::{Assignment, ConsumerName, Cursor, EventLog, LogAdmin, LogErrorKind, Park, ParkState, Parked, StartAt},
    testing::event::numbered,
};

/// An event that failed is set aside as it stands in the log, with what is known of the failure, and its key is blocked.
pub async fn a_failed_event_is_set_aside_and_blocks_its_key<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let odd = NewEvent::bytes("Suite", "odd", "Happened", crate::event::ContentType::json(), "[1.00]")
        .and_then(|event| event.with_ordering_key("кімната/1"))
        .and_then(|event| event.with_header("binary", bytes::Bytes::from_static(&[0, 0xff])))
        .expect("event");
    let scene = Scene::write(harness, &[numbered("a", 1), odd]).await;
    let parks = [
        fails_for(scene.event(0), "the broker said no", 3, None),
        fails_for(scene.event(1), "again soon", 1, Some(LONG)),
    ];
    assert_eq!(scene.park(harness, &parks).await, [Parked::Yes, Parked::Yes]);
    let parked = scene.parked(harness).await;
    let facts: Vec<_> = parked.iter().map(|p| (&p.event, p.state, p.reason.as_str(), p.attempts)).collect();
    let first = (scene.event(0), ParkState::Parked, "the broker said no", 3);
    let second = (scene.event(1), ParkState::Retrying, "again soon", 1);
    assert_eq!(facts, [first, second], "every field of the event, and of the failure");
    assert_eq!(parked[0].retry_at, None, "it waits for somebody");
    let retry_at = parked[1].retry_at.expect("when it is tried again");
    let from_now = (retry_at - parked[1].parked_at).as_seconds_f64();
    assert!((from_now - LONG.as_secs_f64()).abs() < 1.0, "an hour from now: {from_now} s");
    let mut blocked = log.blocked_keys(&scene.member.fence).await.expect("blocked keys");
    blocked.sort_unstable();
    assert_eq!(blocked, ["Suite/a", "кімната/1"], "as lane keys are written");
}

/// An event behind one that failed is set aside, too, without a failure of its own; those of other keys flow.
pub async fn later_events_of_a_blocked_key_are_set_aside<H: LogHarness>(harness: &H) {
    let events = [numbered("a", 1), numbered("b", 2), numbered("a", 3), numbered("b", 4)];
    let scene = Scene::write(harness, &events).await;
    let [first, other, second, _] = [0, 1, 2, 3].map(|n| scene.event(n));
    assert_eq!(scene.park(harness, &[behind(first)]).await, [Parked::NotBlocked], "nothing failed yet");
    assert_eq!(scene.park(harness, &[fails(first)]).await, [Parked::Yes]);
    let answers = scene.park(harness, &[behind(other), behind(second)]).await;
    assert_eq!(answers, [Parked::NotBlocked, Parked::Yes], "in the order of the events");
    let parked = scene.parked(harness).await;
    let facts: Vec<_> = parked.iter().map(|p| (p.event.origin.sequence, p.state)).collect();
    let expected = [(first.origin.sequence, ParkState::Parked), (second.origin.sequence, ParkState::Behind)];
    assert_eq!(facts, expected, "and nothing of the other key");
    assert_eq!((parked[1].reason.as_str(), parked[1].attempts, parked[1].retry_at), ("", 0, None));
    assert_eq!(scene.blocked(harness).await, ["Suite/a"]);
}

/// Within one call each event finds what those before it did: the one that failed blocks its key for those behind it.
pub async fn one_call_parks_an_event_and_those_behind_it<H: LogHarness>(harness: &H) {
    let events = [numbered("a", 1), numbered("a", 2), numbered("b", 3), numbered("a", 4), numbered("b", 5)];
    let scene = Scene::write(harness, &events).await;
    let park = |n: usize| behind(scene.event(n));
    let answers = scene.park(harness, &[fails(scene.event(0)), park(1), park(2), park(3), park(4)]).await;
    let expected = [Parked::Yes, Parked::Yes, Parked::NotBlocked, Parked::Yes, Parked::NotBlocked];
    assert_eq!(answers, expected, "later events of the key that failed in this call");
    assert_eq!(scene.states(harness).await, [ParkState::Parked, ParkState::Behind, ParkState::Behind]);
}

/// Parking an event again changes its failure and nothing else; parking it without a failure changes nothing.
pub async fn parking_again_keeps_the_event_and_its_time<H: LogHarness>(harness: &H) {
    let scene = Scene::write(harness, &[numbered("a", 1), numbered("a", 2)]).await;
    let (first, second) = (scene.event(0), scene.event(1));
    scene.park(harness, &[fails_for(first, "once", 1, Some(LONG)), behind(second)]).await;
    let before = scene.parked(harness).await;
    assert_eq!(scene.park(harness, &[behind(first), behind(second)]).await, [Parked::Yes, Parked::Yes]);
    assert_eq!(scene.parked(harness).await, before, "parked again without a failure");

    assert_eq!(scene.park(harness, &[fails_for(first, "twice", 2, None)]).await, [Parked::Yes]);
    let after = scene.parked(harness).await;
    assert_eq!(after[1], before[1], "the one behind it");
    let changed = (after[0].state, after[0].reason.as_str(), after[0].attempts, after[0].retry_at);
    assert_eq!(changed, (ParkState::Parked, "twice", 2, None), "the new failure");
    assert_eq!((&after[0].event, after[0].parked_at), (&before[0].event, before[0].parked_at), "parked since");

    assert_eq!(scene.park(harness, &[fails_for(second, "too", 1, Some(LONG))]).await, [Parked::Yes]);
    assert_eq!(
        scene.states(harness).await,
        [ParkState::Parked, ParkState::Retrying],
        "one that was behind fails itself"
    );
    assert_eq!(scene.blocked(harness).await, ["Suite/a"]);
}

/// A reason may be any text of any length; at most 2,000 characters are kept.
pub async fn any_reason_can_be_kept<H: LogHarness>(harness: &H) {
    let scene = Scene::write(harness, &[numbered("a", 1), numbered("b", 2), numbered("c", 3)]).await;
    let long = "ж✓".repeat(3_000);
    let odd = "'; DROP TABLE \\ \u{0} \u{1} \n \u{10FFFF} end";
    let parks = [
        fails_for(scene.event(0), &long, 1, None),
        fails_for(scene.event(1), odd, 1, None),
        fails_for(scene.event(2), "", 1, None),
    ];
    assert_eq!(scene.park(harness, &parks).await, [Parked::Yes; 3]);
    let parked = scene.parked(harness).await;
    assert_eq!(parked[0].reason.chars().count(), 2_000, "characters kept of a long reason");
    assert!(long.starts_with(&parked[0].reason), "the beginning is kept");
    let (begins, ends) = ("'; DROP TABLE \\ ", "\n \u{10FFFF} end");
    assert!(parked[1].reason.starts_with(begins) && parked[1].reason.ends_with(ends), "{:?}", parked[1].reason);
    assert_eq!((parked[2].state, parked[2].reason.as_str()), (ParkState::Parked, ""), "no reason");
}

/// An event that the log does not have is refused as [`LogErrorKind::Corrupt`], and nothing of the call is set aside.
pub async fn an_unknown_event_cannot_be_parked<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness, &[numbered("a", 1), numbered("b", 2)]).await;
    let known = scene.event(0);
    let sequence = |generation, position| Sequence::new(generation, position).expect("sequence");
    let position = known.origin.sequence.position();
    let other_lane = all_lanes(log).await.iter().find(|lane| *lane != known.lane).expect("two lanes");
    for (unknown, which) in [
        (Park { sequence: sequence(0, position + 100_000), ..fails(known) }, "a position beyond the end"),
        (Park { sequence: sequence(7, position), ..fails(known) }, "another generation"),
        (Park { lane: other_lane, ..fails(known) }, "another lane than the event's"),
    ] {
        let parks = [fails(scene.event(1)), unknown];
        let refused = log.park(&scene.member.fence, &parks).await.expect_err(which);
        assert_eq!(refused.kind(), LogErrorKind::Corrupt, "{which}: {refused}");
        assert_eq!(scene.parked(harness).await, [], "all or none: {which}");
        assert_eq!(scene.blocked(harness).await, [""; 0], "all or none: {which}");
    }
}

/// What one consumer sets aside blocks nothing for another.
pub async fn parked_events_belong_to_one_consumer<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness, &[numbered("a", 1), numbered("a", 2)]).await;
    scene.park(harness, &[fails(scene.event(0))]).await;
    let (other, _) = register(log, "other", StartAt::Beginning).await;
    let (member, _) = join_alone(log, &other).await;
    assert_eq!(log.blocked_keys(&member.fence).await.expect("blocked keys"), [""; 0]);
    assert_eq!(log.due_parked(&member.fence, 10).await.expect("due"), []);
    let answers = log.park(&member.fence, &[behind(scene.event(1))]).await.expect("park");
    assert_eq!(answers, [Parked::NotBlocked], "blocked for the first consumer only");
    assert_eq!(log.parked(&other, None, 10).await.expect("parked"), []);
}

/// Parked events go with their lanes: who gets a lane learns its blocked keys and keeps them in order; who gave it away
/// is told of others no more.
pub async fn parked_events_go_with_their_lanes<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let lanes: Vec<_> = all_lanes(log).await.iter().collect();
    let (kept, given) = ([lanes[0]].into_iter().collect(), [lanes[1]].into_iter().collect());
    let names = [names_in(log, kept, 1).await.remove(0), names_in(log, given, 1).await.remove(0)];
    let events = [numbered(&names[0], 1), numbered(&names[1], 2), numbered(&names[1], 3)];
    let scene = Scene::write(harness, &events).await;
    let soon = Some(Duration::ZERO);
    scene.park(harness, &[fails_for(scene.event(0), "", 1, soon), fails_for(scene.event(1), "", 1, soon)]).await;
    log.release(&scene.member.fence, &at(&scene.end, given)).await.expect("release");
    let second = join(log, &scene.consumer).await;
    assert_eq!(second.lanes(), given);
    assert_eq!(scene.blocked(harness).await, [format!("Suite/{}", names[0])], "of the lanes kept");
    let blocked = log.blocked_keys(&second.fence).await.expect("blocked keys");
    assert_eq!(blocked, [format!("Suite/{}", names[1])], "of the lane given away");
    let due = log.due_parked(&second.fence, 10).await.expect("due");
    assert_eq!(due.iter().map(|p| &p.event).collect::<Vec<_>>(), [scene.event(1)], "due in the lane given away");
    let due = log.due_parked(&scene.member.fence, 10).await.expect("due");
    assert_eq!(due.iter().map(|p| &p.event).collect::<Vec<_>>(), [scene.event(0)], "due in the lanes kept");
    let answers = log.park(&second.fence, &[behind(scene.event(2))]).await.expect("park");
    assert_eq!(answers, [Parked::Yes], "the key is still blocked");
    assert_fenced(log.park(&scene.member.fence, &[behind(scene.event(2))]).await, "parking in a lane given away");
}

/// A checkpoint passes parked events; they stay where they are, and the next member does not read them again.
pub async fn a_checkpoint_passes_parked_events<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness, &[numbered("a", 1), numbered("b", 2)]).await;
    scene.park(harness, &[fails(scene.event(0))]).await;
    log.checkpoint(&scene.member.fence, &whole(log, &scene.end).await).await.expect("checkpoint");
    log.leave(&scene.member.fence).await.expect("leave");
    let (next, cursor) = join_alone(log, &scene.consumer).await;
    assert_eq!(read_on(log, &cursor).await.0, []);
    assert_eq!(log.blocked_keys(&next.fence).await.expect("blocked keys"), ["Suite/a"]);
    assert_eq!(scene.parked(harness).await.len(), 1);
}

/// An event that nothing orders is set aside alone: others of its aggregate flow.
pub async fn an_unordered_event_blocks_nothing_else<H: LogHarness>(harness: &H) {
    let events = [numbered("a", 1).unordered(), numbered("a", 2).unordered(), numbered("a", 3)];
    let id = events[0].event().id.to_string();
    let scene = Scene::write(harness, &events).await;
    let of = |n: u64| {
        let found = scene.events.iter().find(|r| crate::testing::number_of(&r.event) == Some(n));
        found.expect("an event with this number")
    };
    assert_eq!(scene.park(harness, &[fails(of(1))]).await, [Parked::Yes]);
    let answers = scene.park(harness, &[behind(of(2)), behind(of(3))]).await;
    assert_eq!(answers, [Parked::NotBlocked, Parked::NotBlocked], "of the same aggregate");
    assert_eq!(scene.blocked(harness).await, [id], "its own id is its key");
    assert_eq!(scene.parked(harness).await[0].event, *of(1), "it comes back unordered");
}

/// Events in a log, and a lone member that has read them all.
pub(super) struct Scene {
    pub(super) consumer: ConsumerName,
    pub(super) member: Assignment,
    pub(super) events: Vec<RecordedEvent>,
    pub(super) end: Cursor,
}

impl Scene {
    /// One transaction for each event.
    pub(super) async fn write<H: LogHarness>(harness: &H, events: &[NewEvent]) -> Self {
        let log = harness.log();
        for event in events {
            write(harness, std::slice::from_ref(event)).await;
        }
        let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
        let (member, _) = join_alone(log, &consumer).await;
        let (read, end) = read_on(log, &start).await;
        Self { consumer, member, events: in_order_of(events, &read), end }
    }

    pub(super) fn event(&self, n: usize) -> &RecordedEvent {
        &self.events[n]
    }

    pub(super) async fn park<H: LogHarness>(&self, harness: &H, events: &[Park]) -> Vec<Parked> {
        harness.log().park(&self.member.fence, events).await.expect("park")
    }

    pub(super) async fn parked<H: LogHarness>(&self, harness: &H) -> Vec<crate::log::ParkedEvent> {
        harness.log().parked(&self.consumer, None, 1_000).await.expect("parked")
    }

    pub(super) async fn states<H: LogHarness>(&self, harness: &H) -> Vec<ParkState> {
        self.parked(harness).await.iter().map(|parked| parked.state).collect()
    }

    /// The blocked keys in alphabetical order.
    pub(super) async fn blocked<H: LogHarness>(&self, harness: &H) -> Vec<String> {
        let mut keys = harness.log().blocked_keys(&self.member.fence).await.expect("blocked keys");
        keys.sort_unstable();
        keys
    }

    /// The numbers of the events that are due, in the order given.
    pub(super) async fn due<H: LogHarness>(&self, harness: &H, limit: usize) -> Vec<u64> {
        let due = harness.log().due_parked(&self.member.fence, limit).await.expect("due");
        due.iter().filter_map(|parked| crate::testing::number_of(&parked.event.event)).collect()
    }

    /// The numbers of all events that are due, in ascending order.
    pub(super) async fn all_due<H: LogHarness>(&self, harness: &H) -> Vec<u64> {
        let mut due = self.due(harness, 1_000).await;
        due.sort_unstable();
        due
    }
}
