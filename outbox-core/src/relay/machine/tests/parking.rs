use super::*;
use crate::log::{Parked, Redriven};

const ONE: &[u8] = &[0];

/// A member of lane 0 that has read these events.
fn reader(events: &[Ev], now: Instant) -> Machine<Events> {
    let mut machine = member(rules(), &[track(0, ONE)]);
    machine.found(&track(0, ONE), events, events.len() as u64, now);
    machine
}

fn due_event(key: u8, attempts: u32) -> DueEvent {
    DueEvent { lane: lane(0), hash: hash_of(key), key: key_of(0, key).into(), attempts }
}

#[test]
fn a_refused_event_is_parked_when_its_lane_has_drained_and_other_keys_flow_at_once() {
    let now = Instant::now();
    let mut machine = reader(&[(0, 0, 1), (0, 1, 2), (0, 0, 3)], now);
    let send = machine.send(now);
    machine.refused(&send, 0, now);
    assert_eq!(machine.next_parking(true, now), None, "the rest is under way");
    machine.report(lane(0), send.batch, 1, Report::Aborted, now);
    machine.report(lane(0), send.batch, 2, Report::Aborted, now);
    assert!(machine.paused().is_empty(), "it is the event's own fault");

    let other = machine.send(now);
    assert!(other.reopen);
    assert_eq!(machine.positions(&other), [2]);
    assert_eq!(machine.park_call(now), [(1, Some(1))], "alone, so that the key is blocked before others go behind it");
    assert_eq!(machine.next_parking(true, now), None, "one call at a time");
    machine.parked(&[Parked::Yes], now);
    assert_eq!(machine.park_call(now), [(3, None)]);
    machine.parked(&[Parked::Yes], now);
    machine.delivered(&other, now);
    assert_eq!(machine.take_last_checkpoint().map(|due| due.tracks), Some(vec![track(3, ONE)]), "parked is done");
    assert_eq!(machine.parking_counts(), (2, 0, 1));
}

#[test]
fn a_key_with_the_same_hash_is_innocent() {
    let now = Instant::now();
    let mut machine = reader(&[(0, 0, 1), (0, 2, 2)], now);
    let send = machine.send(now);
    machine.refused(&send, 0, now);
    machine.report(lane(0), send.batch, 1, Report::Aborted, now);
    let again = machine.send(now);
    assert_eq!(machine.positions(&again), [2]);
}

#[test]
fn an_event_whose_key_is_free_again_is_sent_before_what_came_after_it() {
    let now = Instant::now();
    let mut machine = reader(&[(0, 0, 1), (0, 0, 2)], now);
    let send = machine.send(now);
    machine.refused(&send, 0, now);
    machine.report(lane(0), send.batch, 1, Report::Aborted, now);
    assert_eq!(machine.next_send(now), None);
    assert_eq!(machine.park_call(now), [(1, Some(1))]);
    machine.parked(&[Parked::Yes], now);
    assert_eq!(machine.park_call(now), [(2, None)]);
    machine.found(&track(2, ONE), &[(0, 0, 3)], 3, now);
    assert_eq!(machine.next_send(now), None, "an earlier one waits for its answer");
    machine.parked(&[Parked::NotBlocked], now);
    let send = machine.send(now);
    assert_eq!(machine.positions(&send), [2, 3]);
}

#[test]
fn a_call_that_failed_is_made_again() {
    let now = Instant::now();
    let mut machine = reader(&[(0, 0, 1), (0, 0, 2)], now);
    let send = machine.send(now);
    machine.refused(&send, 0, now);
    machine.report(lane(0), send.batch, 1, Report::Aborted, now);
    assert_eq!(machine.next_send(now), None);
    assert_eq!(machine.park_call(now), [(1, Some(1))]);
    machine.parking_failed();
    assert!(!machine.is_settled());
    assert_eq!(machine.park_call(now), [(1, Some(1))]);
    machine.parked(&[Parked::Yes], now);
    assert_eq!(machine.park_call(now), [(2, None)]);
    machine.parking_failed();
    assert_eq!(machine.park_call(now), [(2, None)]);
}

#[test]
fn nothing_is_read_before_the_blocked_keys_are_known() {
    let now = Instant::now();
    let mut machine: Machine<Events> = Machine::new(rules(), 1);
    machine.gain(vec![track(0, ONE)]);
    assert_eq!(machine.reads(true, now), []);
    assert_eq!(machine.next_parking(false, now), None, "nothing new is begun by who stops");
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Keys));
    machine.gain(vec![track(7, &[1])]);
    machine.keys_known([(lane(0), hash_of(0), &*key_of(0, 0))]);
    assert_eq!(machine.reads(true, now), [track(0, ONE)], "the answer says nothing of what came meanwhile");
    machine.found(&track(0, ONE), &[(0, 0, 1), (0, 1, 2)], 2, now);
    let send = machine.send(now);
    assert_eq!(machine.positions(&send), [2]);
}

#[test]
fn redriven_events_are_sent_first_and_free_their_key_when_they_are_recorded() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, ONE)]);
    machine.want_due();
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Due));
    machine.due(Events(vec![(0, 0, 1), (0, 0, 2)]), vec![due_event(0, 1), due_event(0, 0)]);
    machine.found(&track(0, ONE), &[(0, 1, 3)], 3, now);
    let failed = machine.send(now);
    assert_eq!((machine.positions(&failed), failed.isolated), (vec![1], true), "it may fail again");
    assert_eq!(machine.next_send(now), None);
    machine.delivered(&failed, now);
    let (behind, other) = (machine.send(now), machine.send(now));
    assert_eq!((machine.positions(&behind), machine.positions(&other)), (vec![2], vec![3]));
    assert!(!behind.isolated);
    let Some(ParkingCall::Record(items)) = machine.next_parking(true, now) else { panic!("to be recorded") };
    assert_eq!(items.len(), 1);
    machine.recorded(&[Redriven::KeyBlocked], now);

    // Asked for again, it is not begun a second time.
    machine.want_due();
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Due));
    machine.due(Events(vec![(0, 0, 2)]), vec![due_event(0, 0)]);
    assert_eq!(machine.next_send(now), None);

    machine.delivered(&behind, now);
    let Some(ParkingCall::Record(items)) = machine.next_parking(true, now) else { panic!("to be recorded") };
    assert_eq!(items.len(), 1);
    machine.found(&track(3, ONE), &[(0, 0, 4)], 4, now);
    assert_eq!(machine.next_send(now), None, "the log does not know yet");
    machine.recorded(&[Redriven::KeyFree], now);
    let next = machine.send(now);
    assert_eq!(machine.positions(&next), [4]);
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Due), "there may be more");
}

#[test]
fn a_redriven_event_that_is_refused_again_is_parked_with_one_attempt_more_and_its_key_stays() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, ONE)]);
    machine.want_due();
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Due));
    let events = vec![(0, 0, 1), (0, 0, 2), (0, 1, 3)];
    machine.due(Events(events), vec![due_event(0, 1), due_event(0, 0), due_event(1, 2)]);
    let send = machine.send(now);
    machine.refused(&send, 0, now);
    let other = machine.send(now);
    assert_eq!(machine.positions(&other), [3], "the rest of the refused key stays parked");
    machine.report(lane(0), other.batch, 0, Report::Failed, now);
    assert_eq!(machine.park_call(now), [(1, Some(2))]);
    machine.parked(&[Parked::Yes], now);
    let later = machine.resume_at().expect("a pause after the failure");
    machine.tick(later);
    let again = machine.send(later);
    assert_eq!((machine.positions(&again), again.isolated), (vec![3], true));
    assert_eq!(machine.parking_counts().2, 2);
}

#[test]
fn a_lane_that_is_full_sends_no_more_of_what_is_redriven() {
    let now = Instant::now();
    let events: Vec<Ev> = (1..=6).map(|position| (0, 1, position)).collect();
    let mut machine = reader(&events, now);
    let full = machine.send(now);
    assert_eq!(full.events.len(), rules().lane_in_flight);
    machine.want_due();
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Due));
    machine.due(Events(vec![(0, 0, 7)]), vec![due_event(0, 0)]);
    assert_eq!(machine.next_send(now), None);
    machine.delivered(&full, now);
    let redriven = machine.send(now);
    assert_eq!(machine.positions(&redriven), [7]);
}

#[test]
fn the_retry_policy_sets_the_time_of_the_next_attempt() {
    let now = Instant::now();
    let mut machine = reader(&[(0, 0, 1)], now);
    let send = machine.send(now);
    machine.refused(&send, 0, now);
    assert_eq!(machine.park_call(now), [(1, Some(1))]);
    machine.parked(&[Parked::Yes], now);
    let at = machine.due_at().expect("a time");
    assert!(at <= now + Duration::from_millis(20));
    assert_eq!(machine.next_parking(true, now), None);
    assert_eq!(machine.next_parking(true, at), Some(ParkingCall::Due));
    machine.due(Events(vec![(0, 0, 1)]), vec![due_event(0, 2)]);
    let send = machine.send(at);
    machine.refused(&send, 0, at);
    let Some(ParkingCall::Park(items)) = machine.next_parking(true, at) else { panic!("to be parked") };
    let failure = items[0].failure.as_ref().expect("a failure");
    assert_eq!((failure.attempts, failure.retry_in, &*failure.reason), (3, None, "bad"), "the policy ends");
}

#[test]
fn what_was_published_as_a_parked_event_is_not_sent_again_when_it_is_read() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, ONE)]);
    machine.want_due();
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Due));
    machine.due(Events(vec![(0, 0, 1), (0, 1, 2)]), vec![due_event(0, 1), due_event(1, 1)]);
    let found = Found { body: Events(vec![(0, 0, 1)]), next: cursor(1), caught_up: false };
    machine.page(&track(0, ONE), found, arrivals(&[(0, 0, 1)]), now);
    for _ in 0..2 {
        let redriven = machine.send(now);
        assert!(redriven.isolated);
        machine.delivered(&redriven, now);
    }
    let Some(ParkingCall::Record(items)) = machine.next_parking(true, now) else { panic!("to be recorded") };
    assert_eq!(items.len(), 2);
    machine.recorded(&[Redriven::KeyFree, Redriven::KeyFree], now);
    assert_eq!(machine.next_send(now), None, "it was read, and is published");
    machine.found(&track(1, ONE), &[(0, 1, 2), (0, 1, 3)], 3, now);
    let send = machine.send(now);
    assert_eq!(machine.positions(&send), [3]);
}
