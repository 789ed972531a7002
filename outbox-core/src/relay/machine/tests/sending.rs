use super::*;

#[test]
fn the_checkpoint_is_the_contiguous_prefix() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0, 1])]);
    machine.found(&track(0, &[0, 1]), &[(0, 1, 1), (1, 2, 2)], 2, now);
    machine.found(&track(2, &[0, 1]), &[(0, 1, 3)], 3, now);
    let (first, second) = (machine.send(now), machine.send(now));
    assert_eq!((machine.positions(&first), machine.positions(&second)), (vec![1, 3], vec![2]));
    assert_eq!(machine.next_send(now), None);

    machine.report(lane(0), first.batch, 1, Report::Delivered, now);
    machine.report(lane(0), first.batch, 0, Report::Delivered, now);
    assert_eq!(machine.take_last_checkpoint(), None, "lane 1 of the first page is missing");
    machine.report(lane(1), second.batch, 0, Report::Delivered, now);
    let due = machine.take_last_checkpoint().expect("both pages");
    assert_eq!((due.tracks, due.position), (vec![track(3, &[0, 1])], 3));
}

#[test]
fn a_failed_lane_waits_for_its_reports_and_then_starts_at_the_failed_event() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0])]);
    machine.found(&track(0, &[0]), &[(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4)], 4, now);
    let send = machine.send(now);
    machine.found(&track(4, &[0]), &[(0, 0, 5)], 5, now);
    machine.report(lane(0), send.batch, 1, Report::Failed, now);
    assert_eq!(machine.next_send(now), None, "three events are still under way");
    machine.report(lane(0), send.batch, 0, Report::Delivered, now);
    machine.report(lane(0), send.batch, 2, Report::Aborted, now);
    machine.report(lane(0), send.batch, 3, Report::Delivered, now);
    assert_eq!(machine.paused(), lanes(&[0]));

    let later = machine.resume_at().expect("a pause");
    machine.tick(later);
    let again = machine.send(later);
    assert!(again.reopen);
    assert_eq!(machine.positions(&again), [2, 3, 5], "the failed one, the aborted one, what came since");
}

#[test]
fn without_the_promise_one_event_per_key_is_under_way() {
    let now = Instant::now();
    let mut machine = member(Rules { keeps_order_after_failure: false, ..rules() }, &[track(0, &[0])]);
    machine.found(&track(0, &[0]), &[(0, 0, 1), (0, 0, 2), (0, 1, 3)], 3, now);
    let send = machine.send(now);
    assert_eq!(machine.positions(&send), [1, 3]);
    assert_eq!(machine.next_send(now), None);
}

#[test]
fn a_cursor_that_passed_no_event_is_recorded_seldom() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0])]);
    machine.found(&track(0, &[0]), &[], 1, now);
    assert_eq!(machine.take_checkpoint(now + Duration::from_secs(29)), None);
    machine.found(&track(1, &[0]), &[], 2, now + Duration::from_secs(29));
    let due = machine.take_checkpoint(now + Duration::from_secs(30)).expect("due");
    assert_eq!(due.tracks, [track(2, &[0])]);
}

#[test]
fn what_is_not_recorded_takes_room() {
    let now = Instant::now();
    let mut machine = member(Rules { window: 2, ..rules() }, &[track(0, &[0])]);
    machine.found(&track(0, &[0]), &[(0, 0, 1), (0, 1, 2)], 2, now);
    assert!(!machine.can_read(now));
    let send = machine.send(now);
    machine.delivered(&send, now);
    assert!(!machine.can_read(now), "it would come again after a crash");
    let due = machine.take_checkpoint(now).expect("due at once, since reading waits for it");
    assert!(!machine.can_read(now));
    machine.return_checkpoint(&due, now);
    assert!(!machine.can_read(now));
    let due = machine.take_checkpoint(now).expect("again");
    machine.checkpoint_recorded(&due);
    assert!(machine.can_read(now));
}

#[test]
fn large_events_fill_the_window_before_many_do() {
    let now = Instant::now();
    let mut machine = member(Rules { window_bytes: 40, ..rules() }, &[track(0, &[0])]);
    machine.found(&track(0, &[0]), &[(0, 0, 1)], 1, now);
    assert!(machine.can_read(now));
    machine.found(&track(1, &[0]), &[(0, 1, 2)], 2, now);
    assert!(!machine.can_read(now));
    let send = machine.send(now);
    machine.report(lane(0), send.batch, 0, Report::Delivered, now);
    assert!(machine.can_read(now), "what is done takes no memory");
}

#[test]
fn a_report_that_repeats_changes_nothing() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0])]);
    machine.found(&track(0, &[0]), &[(0, 0, 1), (0, 1, 2)], 2, now);
    let send = machine.send(now);
    machine.report(lane(0), send.batch, 0, Report::Delivered, now);
    machine.report(lane(0), send.batch, 0, Report::Failed, now);
    machine.report(lane(0), send.batch, 9, Report::Failed, now);
    assert_eq!(machine.in_flight(), 1);
    assert!(machine.paused().is_empty());
}

#[test]
fn suspects_are_sent_by_themselves_and_before_all_else() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0])]);
    machine.found(&track(0, &[0]), &[(0, 0, 1), (0, 1, 2), (0, 0, 3), (0, 2, 4)], 4, now);
    let send = machine.send(now);
    machine.report(lane(0), send.batch, 0, Report::Suspect, now);
    machine.report(lane(0), send.batch, 1, Report::Suspect, now);
    machine.report(lane(0), send.batch, 2, Report::Aborted, now);
    assert_eq!(machine.next_send(now), None, "one event is still under way");
    machine.report(lane(0), send.batch, 3, Report::Delivered, now);

    let first = machine.send(now);
    assert_eq!((machine.positions(&first), first.isolated, first.reopen), (vec![1], true, true));
    assert_eq!(machine.next_send(now), None, "it goes by itself");
    machine.delivered(&first, now);
    let second = machine.send(now);
    assert_eq!((machine.positions(&second), second.isolated), (vec![2], true));
    machine.refused(&second, 0, now);
    let rest = machine.send(now);
    assert_eq!((machine.positions(&rest), rest.isolated), (vec![3], false), "its neighbours flow on at once");
    assert_eq!(machine.park_call(now), [(2, Some(1))]);
}

#[test]
fn a_suspect_whose_destination_is_away_stays_one() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0])]);
    machine.found(&track(0, &[0]), &[(0, 0, 1), (0, 1, 2)], 2, now);
    let send = machine.send(now);
    machine.report(lane(0), send.batch, 0, Report::Suspect, now);
    machine.report(lane(0), send.batch, 1, Report::Aborted, now);
    // What a publisher may not say of an event that was by itself counts as a failure.
    for failure in [Report::Failed, Report::Suspect] {
        let later = machine.resume_at().unwrap_or(now);
        machine.tick(later);
        let alone = machine.send(later);
        assert_eq!((machine.positions(&alone), alone.isolated), (vec![1], true));
        machine.report(lane(0), alone.batch, 0, failure, later);
        assert_eq!(machine.paused(), lanes(&[0]));
    }
    assert_eq!(machine.next_parking(true, now), None, "nothing is parked");
}

#[test]
fn lanes_that_came_again_take_no_page_that_was_asked_for_before() {
    let now = Instant::now();
    let mut machine = member(rules(), &[track(0, &[0, 1])]);
    machine.found(&track(0, &[0, 1]), &[(0, 0, 1)], 1, now);
    let send = machine.send(now);
    machine.delivered(&send, now);
    let asked = track(1, &[0, 1]);
    machine.give_back(1);
    assert!(machine.next_release(now).is_some());
    machine.released();
    machine.gain(vec![track(1, &[1])]);
    assert!(!machine.found(&asked, &[(1, 0, 2)], 2, now), "its blocked keys are not known");
    assert_eq!(machine.next_send(now), None);
}
