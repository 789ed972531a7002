use super::*;
use crate::log::{Parked, Redriven};

#[test]
fn tracks_that_meet_are_joined_whatever_they_have_to_do() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0]), track(5, &[1])]);
    assert_eq!(machine.reads(true, now), [track(0, &[0]), track(5, &[1])]);
    machine.found(&track(0, &[0]), &[(0, 0, 1)], 9, now);
    machine.found(&track(5, &[1]), &[(1, 0, 8)], 9, now);
    assert_eq!(machine.reads(true, now), [track(9, &[0, 1])]);
    machine.found(&track(9, &[0, 1]), &[(0, 0, 10), (1, 0, 11)], 11, now);

    // Each keeps its own place until all is done.
    let (first, second) = (machine.send(now), machine.send(now));
    machine.delivered(&first, now);
    let due = machine.take_last_checkpoint().expect("lane 0");
    assert_eq!(due.tracks, [track(5, &[1]), track(9, &[0])]);
    machine.delivered(&second, now);
    assert_eq!(machine.take_last_checkpoint().expect("all").tracks, [track(11, &[0, 1])]);
}

#[test]
fn a_page_for_lanes_that_left_is_taken_without_them_and_one_for_lanes_that_came_is_not() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0, 1])]);
    let asked = machine.reads(true, now).remove(0);
    machine.give_back(1);
    assert_eq!(machine.next_release(now), Some(vec![track(0, &[1])]));
    assert!(machine.found(&asked, &[(1, 0, 1), (0, 0, 2)], 2, now));
    let send = machine.send(now);
    assert_eq!((send.lane, machine.positions(&send)), (lane(0), vec![2]));
    assert_eq!(machine.next_send(now), None);
    assert!(!machine.found(&asked, &[], 2, now), "it has been read");
}

#[test]
fn lanes_are_given_back_when_nothing_of_them_is_under_way_at_their_own_place() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0, 1, 2])]);
    machine.found(&track(0, &[0, 1, 2]), &[(0, 0, 1), (1, 0, 2)], 2, now);
    let (first, second) = (machine.send(now), machine.send(now));
    machine.found(&track(2, &[0, 1, 2]), &[(1, 0, 3), (2, 0, 4)], 4, now);
    machine.give_back(2);
    // Lane 2 has something waiting, but nothing under way; of the others, lane 1 has more.
    assert_eq!(machine.next_release(now), Some(vec![track(2, &[2])]), "what it has waiting is left to the next owner");
    assert_eq!(machine.next_release(now), Some(vec![track(2, &[2])]), "until it is done");
    let due = machine.take_last_checkpoint();
    assert_eq!(due, None, "nothing is done");
    assert_eq!(machine.released(), lanes(&[2]));
    assert_eq!(machine.next_release(now), None, "the other one is under way");

    machine.delivered(&first, now);
    assert_eq!(machine.next_release(now), Some(vec![track(4, &[0])]), "further than its track");
    machine.delivered(&second, now);
    let due = machine.take_last_checkpoint().expect("the first page");
    assert_eq!(due.tracks, [track(2, &[1]), track(4, &[0])], "a checkpoint names lanes that are not given back yet");
    machine.released();
    assert_eq!(machine.lanes(), lanes(&[1]));
}

#[test]
fn who_has_no_more_to_give_goes_on_with_what_was_chosen() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0, 1])]);
    machine.found(&track(0, &[0, 1]), &[(0, 0, 1), (1, 0, 2)], 2, now);
    let first = machine.send(now);
    assert_eq!(first.lane, lane(0));
    machine.give_back(1);
    assert_eq!(machine.next_send(now), None, "lane 1 is to leave");
    machine.give_back(0);
    assert_eq!(machine.send(now).lane, lane(1));
}

#[test]
fn a_lane_stays_until_the_log_knows_what_became_of_its_events() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0])]);
    machine.found(&track(0, &[0]), &[(0, 0, 1)], 1, now);
    let send = machine.send(now);
    machine.refused(&send, 0, now);
    machine.give_back(1);
    assert_eq!(machine.next_release(now), None, "it is to be parked");
    assert_eq!(machine.park_call(now), [(1, Some(1))]);
    assert_eq!(machine.next_release(now), None, "it is being parked");
    machine.parked(&[Parked::Yes], now);
    machine.give_back(0);

    machine.want_due();
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Due));
    let due = DueEvent { lane: lane(0), hash: hash_of(0), key: key_of(0, 0).into(), attempts: 1 };
    machine.due(Events(vec![(0, 0, 1)]), vec![due]);
    let send = machine.send(now);
    machine.delivered(&send, now);
    machine.give_back(1);
    assert_eq!(machine.next_release(now), None, "it is published, and still parked");
    assert!(matches!(machine.next_parking(true, now), Some(ParkingCall::Record(_))));
    machine.recorded(&[Redriven::KeyFree], now);
    assert_eq!(machine.next_release(now), Some(vec![track(1, &[0])]));
}

#[test]
fn lanes_that_come_again_while_they_are_given_back_are_given_back_no_more() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0, 1])]);
    machine.give_back(1);
    assert_eq!(machine.next_release(now), Some(vec![track(0, &[1])]));
    // The answer was lost, and the log has given the lane to this member once more.
    machine.gain(vec![track(0, &[1])]);
    assert_eq!(machine.next_release(now), None);
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Keys));
    machine.keys_known([]);
    machine.found(&track(0, &[0, 1]), &[(1, 0, 1)], 1, now);
    let send = machine.send(now);
    machine.delivered(&send, now);
    let due = machine.take_last_checkpoint().expect("something is done");
    assert_eq!(due.tracks, [track(1, &[0, 1])], "each lane once, where it is now");
}

#[test]
fn blocked_keys_that_become_known_after_their_lane_was_given_back_are_left_out() {
    let now = Instant::now();
    let mut machine: Machine<Events> = Machine::new(rules(), 1);
    machine.gain(vec![track(0, &[0, 1])]);
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Keys));
    machine.give_back(1);
    assert_eq!(machine.next_release(now), Some(vec![track(0, &[1])]));
    machine.keys_known([(lane(0), hash_of(0), &*key_of(0, 0)), (lane(1), hash_of(0), &*key_of(1, 0))]);
    assert_eq!(machine.parking_counts().2, 1, "that of lane 0");
}
