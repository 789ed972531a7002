use super::*;

const SMALL: usize = 4;

/// A member of four lanes whose lane 0 has failed until its pause, with a full window.
fn stuck(now: &mut Instant) -> Machine<Events> {
    let mut machine = member(Rules { window: SMALL, ..rules() }, &[track(0, &[0, 1, 2, 3])]);
    let events = [(0, 0, 1), (0, 1, 2), (1, 0, 3), (0, 0, 4)];
    machine.found(&track(0, &[0, 1, 2, 3]), &events, 4, *now);
    let (first, other) = (machine.send(*now), machine.send(*now));
    machine.delivered(&other, *now);
    machine.report(lane(0), first.batch, 0, Report::Failed, *now);
    machine.report(lane(0), first.batch, 1, Report::Delivered, *now);
    machine.report(lane(0), first.batch, 2, Report::Aborted, *now);
    for _ in 0..2 {
        assert_eq!(machine.reads(true, *now), [], "the window is full");
        *now = machine.resume_at().expect("a pause");
        machine.tick(*now);
        let again = machine.send(*now);
        machine.report(lane(0), again.batch, 0, Report::Failed, *now);
        machine.report(lane(0), again.batch, 1, Report::Aborted, *now);
    }
    machine
}

#[test]
fn a_stuck_lane_gets_out_of_the_way_and_is_read_again_after_its_pause() {
    let mut now = Instant::now();
    let mut machine = stuck(&mut now);
    assert_eq!(machine.reads(true, now), [], "what the others have done is to be recorded first");
    let due = machine.take_last_checkpoint().expect("the others");
    assert_eq!((&*due.tracks, due.position), (&[track(4, &[1, 2, 3]), track(0, &[0])][..], 0));
    machine.checkpoint_recorded(&due);
    assert_eq!(machine.reads(true, now), [track(4, &[1, 2, 3])], "the others go on");

    now = machine.resume_at().expect("a pause");
    machine.tick(now);
    let reads = machine.reads(true, now);
    assert_eq!(reads, [track(4, &[1, 2, 3]), track(0, &[0])]);
    machine.found(&track(0, &[0]), &[(0, 0, 1), (0, 1, 2)], 2, now);
    assert_eq!(machine.reads(true, now), [track(4, &[1, 2, 3])], "one page at a time");
    let again = machine.send(now);
    assert_eq!(machine.positions(&again), [1], "what was delivered is not sent again");

    machine.delivered(&again, now);
    assert_eq!(machine.reads(true, now), [track(4, &[1, 2, 3]), track(2, &[0])], "it flows");
    machine.found(&track(2, &[0]), &[(0, 0, 4)], 4, now);
    assert_eq!(machine.reads(true, now), [track(4, &[1, 2, 3, 0])], "it caught up");
}

#[test]
fn when_most_lanes_are_paused_the_destination_is_away() {
    let mut now = Instant::now();
    let mut machine = stuck(&mut now);
    machine.give_back(3);
    machine.next_release(now).expect("quiet lanes");
    machine.released();
    assert_eq!(machine.lanes(), lanes(&[0]));
    assert_eq!(machine.reads(true, now), []);
    assert_eq!(machine.tracks(), 1);
}
