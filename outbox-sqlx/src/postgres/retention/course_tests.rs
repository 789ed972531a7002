use super::*;

const MILLION: u64 = 1 << WINDOW_BITS;

fn marks(pruned: u64, swept: u64) -> Marks {
    Marks { pruned, swept, awaited: Drawn { position: 0, next_xid: 0 }, ring: false }
}

fn course(marks: Marks, head: u64, target: u64, settled: u64) -> Course {
    Course { marks, head, target, settled }
}

fn ring(swept: u64, head: u64, target: u64) -> Course {
    let marks = Marks { ring: true, ..marks(swept, swept) };
    course(marks, head, target, target)
}

fn delete(after: u64, upto: u64, sweeps: bool) -> Work {
    Work::Delete { after, upto, sweeps }
}

const TRY_ALL: GivenUp = GivenUp { sweeping: false, pruning: false, emptying: false };

#[test]
fn what_has_settled_is_walked_once() {
    let course = course(marks(0, 0), 20_000, 12_000, 15_000);
    assert_eq!(course.next(5_000, TRY_ALL), Some(delete(0, 5_000, true)));
    let last = Course { marks: marks(10_000, 10_000), ..course };
    assert_eq!(last.next(5_000, TRY_ALL), Some(delete(10_000, 12_000, true)), "not beyond the target");
    let done = Course { marks: marks(12_000, 12_000), ..course };
    assert_eq!(done.next(5_000, TRY_ALL), None);
}

#[test]
fn what_has_not_settled_is_walked_again_later() {
    let waiting = course(marks(0, 0), 20_000, 12_000, 0);
    assert_eq!(waiting.next(5_000, TRY_ALL), Some(delete(0, 5_000, false)));
    let pruned = Course { marks: marks(12_000, 0), ..waiting };
    assert_eq!(pruned.next(5_000, TRY_ALL), None);
    let settled = Course { settled: 11_000, ..pruned };
    assert_eq!(settled.next(5_000, TRY_ALL), Some(delete(0, 5_000, true)));
    let stopped = GivenUp { sweeping: true, ..TRY_ALL };
    assert_eq!(settled.next(5_000, stopped), None, "a young one in between; nothing new behind");
    let news = Course { target: 13_000, ..settled };
    assert_eq!(news.next(5_000, stopped), Some(delete(12_000, 13_000, false)));
}

#[test]
fn marks_survive_a_log_that_went_back() {
    let now = Drawn { position: 100, next_xid: 50 };
    let kept = Marks { awaited: Drawn { position: 90, next_xid: 40 }, ..marks(80, 70) };
    assert_eq!(kept.on(now), kept);
    let reached = Marks { swept: 90, pruned: 95, ..kept };
    assert_eq!(reached.on(now), Marks { awaited: now, ..reached }, "waits for the next moment");
    let restored = Marks { awaited: Drawn { position: 90, next_xid: 51 }, ..kept };
    assert_eq!(restored.on(now).awaited, now, "an id of another server");
    let back = Marks { awaited: Drawn { position: 300, next_xid: 40 }, ..marks(200, 150) };
    assert_eq!(back.on(now), Marks { awaited: now, ..marks(100, 100) });
}

#[test]
fn a_leaf_of_a_ring_waits_until_it_can_go_as_a_whole() {
    let half = ring(0, 3 * MILLION, MILLION / 2);
    assert_eq!(half.next(5_000, TRY_ALL), None);
    let whole = ring(0, 3 * MILLION, MILLION);
    assert_eq!(whole.next(5_000, TRY_ALL), Some(Work::Empty { leaf: 0, end: MILLION - 1 }));
    let rest = ring(5 * MILLION + 7, 9 * MILLION, 7 * MILLION);
    assert_eq!(rest.next(5_000, TRY_ALL), Some(Work::Empty { leaf: 5, end: 6 * MILLION - 1 }));
    let next_round = ring(17 * MILLION - 1, 20 * MILLION, 18 * MILLION);
    assert_eq!(next_round.next(5_000, TRY_ALL), Some(Work::Empty { leaf: 1, end: 18 * MILLION - 1 }));
}

#[test]
fn a_small_ring_is_pruned_row_by_row() {
    assert_eq!(ring(0, 900, 700).next(5_000, TRY_ALL), Some(delete(0, 700, true)));
    let not_settled = Course { settled: 0, ..ring(0, 900, 700) };
    assert_eq!(not_settled.next(5_000, TRY_ALL), Some(delete(0, 700, false)));
}

#[test]
fn a_ring_that_fills_up_makes_room_row_by_row() {
    let refused = GivenUp { emptying: true, ..TRY_ALL };
    assert_eq!(ring(0, 7 * MILLION, MILLION).next(5_000, refused), None, "there is time");
    assert_eq!(ring(0, 8 * MILLION, MILLION).next(5_000, refused), Some(delete(0, 5_000, true)));
    let over = ring(0, 16 * MILLION, 16 * MILLION);
    assert_eq!(over.next(5_000, TRY_ALL), Some(delete(0, 5_000, true)), "the leaf holds two windows");
    let partly = ring(0, 10 * MILLION, MILLION / 2);
    assert_eq!(partly.next(5_000, TRY_ALL), Some(delete(0, 5_000, true)));
}
