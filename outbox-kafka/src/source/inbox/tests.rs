use super::*;

const AT_ONCE: Limits = Limits { records: 4, bytes: 1 << 20, wait: Duration::ZERO };

fn raw(offset: i64) -> Raw {
    Raw { offset, key: None, payload: None, headers: None }
}

fn inbox(limits: Limits, partitions: i32) -> (Inbox, Vec<Partition>) {
    let inbox = Inbox::new(limits);
    let names: Vec<Partition> = (0..partitions).map(|n| Partition::new(format!("c/t/{n}"))).collect();
    inbox.assign(names.iter().zip(0..).map(|(p, n)| (p.clone(), "t".into(), n)).collect());
    assert!(matches!(inbox.take(Instant::now()), Taken::Event(SourceEvent::Assigned(_))));
    (inbox, names)
}

/// A place whose last record is known.
fn marked(next: i64) -> Position {
    let mark = format!("last=~{:016x}", next - 1);
    let position = Position::committed(next, &mark);
    assert!(position.last.is_some());
    position
}

fn begin(inbox: &Inbox, partition: &Partition, at: i64, now: Instant) -> Assignment {
    let assignment = inbox.stop(partition).expect("assigned");
    inbox.start(&assignment, marked(at), now).expect("the same assignment");
    assignment
}

fn offsets(inbox: &Inbox, now: Instant) -> Option<(i32, Vec<i64>)> {
    match inbox.take(now) {
        Taken::Records(is, records) => Some((is.number, records.iter().map(|r| r.offset).collect())),
        Taken::Nothing(_) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_delivered_before_the_start() {
    let now = Instant::now();
    let (inbox, names) = inbox(AT_ONCE, 1);
    inbox.push("t", 0, raw(7), now);
    assert!(offsets(&inbox, now).is_none());
    assert_eq!(inbox.due(), (vec![], vec![]), "it was assigned paused");
    begin(&inbox, &names[0], 1, now);
    assert_eq!(inbox.due(), (vec![], vec![("t".into(), 0)]));
    inbox.push("t", 0, raw(1), now);
    assert_eq!(offsets(&inbox, now), Some((0, vec![1])));
}

#[test]
fn a_full_partition_is_paused_and_resumed_at_half() {
    let now = Instant::now();
    let (inbox, names) = inbox(AT_ONCE, 1);
    begin(&inbox, &names[0], 1, now);
    let _resumed = inbox.due();
    for offset in 0..32 {
        inbox.push("t", 0, raw(offset), now);
    }
    assert_eq!(inbox.due(), (vec![("t".into(), 0)], vec![]));
    for batch in 0..8 {
        assert_eq!(offsets(&inbox, now), Some((0, (4 * batch..4 * batch + 4).collect())));
        let resumed = if batch == 3 { vec![("t".into(), 0)] } else { vec![] };
        assert_eq!(inbox.due(), (vec![], resumed), "after batch {batch}");
    }
}

#[test]
fn a_batch_has_its_limits() {
    let now = Instant::now();
    let limits = Limits { records: 3, bytes: 100, wait: Duration::from_millis(50) };
    let (inbox, names) = inbox(limits, 1);
    begin(&inbox, &names[0], 1, now);
    let _resumed = inbox.due();
    let push = |offset, bytes: usize| {
        inbox.push("t", 0, Raw { payload: Some(vec![b'x'; bytes].into()), ..raw(offset) }, now);
    };
    push(1, 10);
    push(2, 10);
    let Taken::Nothing(Some(until)) = inbox.take(now) else { panic!("it waits for more") };
    assert_eq!(until, now + limits.wait);
    push(3, 10);
    assert_eq!(offsets(&inbox, now), Some((0, vec![1, 2, 3])), "full by count");
    push(4, 60);
    push(5, 60);
    push(6, 500);
    assert_eq!(offsets(&inbox, now), Some((0, vec![4])), "two would be too many bytes");
    assert_eq!(offsets(&inbox, now), Some((0, vec![5])));
    assert_eq!(offsets(&inbox, now), Some((0, vec![6])), "one record may be larger");
    push(7, 10);
    assert!(offsets(&inbox, now).is_none());
    assert_eq!(offsets(&inbox, until), Some((0, vec![7])), "waited long enough");
}

#[test]
fn partitions_take_turns() {
    let now = Instant::now();
    let (inbox, names) = inbox(Limits { records: 1, ..AT_ONCE }, 2);
    for name in &names {
        begin(&inbox, name, 1, now);
    }
    for offset in 0..2 {
        inbox.push("t", 0, raw(offset), now);
        inbox.push("t", 1, raw(offset), now);
    }
    let order: Vec<_> = std::iter::from_fn(|| offsets(&inbox, now)).collect();
    assert_eq!(order, [(0, vec![0]), (1, vec![0]), (0, vec![1]), (1, vec![1])]);
}

#[test]
fn what_was_received_of_a_revoked_partition_is_not_delivered() {
    let now = Instant::now();
    let (inbox, names) = inbox(AT_ONCE, 1);
    begin(&inbox, &names[0], 1, now);
    inbox.push("t", 0, raw(0), now);
    inbox.revoke(names.clone());
    assert!(matches!(inbox.take(now), Taken::Event(SourceEvent::Revoked(p)) if p == names));
    assert!(matches!(inbox.take(now), Taken::Nothing(None)));
    assert_eq!(inbox.stop(&names[0]).expect_err("revoked").kind(), SourceErrorKind::Revoked);
}

#[test]
fn a_start_does_not_pass_to_a_later_assignment() {
    let (inbox, names) = inbox(AT_ONCE, 1);
    let assignment = inbox.stop(&names[0]).expect("assigned");
    inbox.revoke(names.clone());
    inbox.assign(vec![(names[0].clone(), "t".into(), 0)]);
    let refused = inbox.start(&assignment, marked(1), Instant::now()).expect_err("moved on");
    assert_eq!(refused.kind(), SourceErrorKind::Revoked);
}

#[test]
fn a_held_partition_keeps_its_records() {
    let now = Instant::now();
    let (inbox, names) = inbox(AT_ONCE, 1);
    begin(&inbox, &names[0], 1, now);
    inbox.push("t", 0, raw(0), now);
    inbox.hold(&names[0], true).expect("hold");
    assert!(offsets(&inbox, now).is_none());
    inbox.hold(&names[0], false).expect("release");
    assert_eq!(offsets(&inbox, now), Some((0, vec![0])));
}

#[test]
fn what_comes_after_a_silence_waits_for_a_check() {
    let start = Instant::now();
    let (later, (inbox, names)) = (start + Duration::from_mins(1), inbox(AT_ONCE, 2));
    let assignment = begin(&inbox, &names[0], 1, start);
    begin(&inbox, &names[1], 1, later);
    inbox.push("t", 0, raw(1), start);
    inbox.push("t", 0, raw(2), later);
    inbox.push("t", 0, raw(3), later);
    inbox.push("t", 1, raw(1), later);
    assert_eq!(offsets(&inbox, later), Some((0, vec![1])), "only what came before the silence");
    inbox.delivered(&assignment, marked(2));
    assert_eq!(offsets(&inbox, later), Some((1, vec![1])));
    for _ in 0..2 {
        let Taken::Check(of, behind) = inbox.take(later) else { panic!("not checked") };
        assert_eq!((&of, behind), (&assignment, marked(2)));
        assert!(offsets(&inbox, later).is_none(), "it is being checked");
        inbox.checked(&of, None);
    }
    let Taken::Check(of, _) = inbox.take(later) else { panic!("not asked again") };
    inbox.checked(&of, Some(true));
    assert_eq!(offsets(&inbox, later), Some((0, vec![2, 3])));
}

#[test]
fn a_partition_that_is_another_one_has_to_be_started_anew() {
    let start = Instant::now();
    let later = start + Duration::from_mins(1);
    let (inbox, names) = inbox(AT_ONCE, 1);
    let before = begin(&inbox, &names[0], 1, start);
    inbox.told(&names[0], &marked(1)).expect("assigned");
    inbox.push("t", 0, raw(1), later);
    let Taken::Check(of, _) = inbox.take(later) else { panic!("not checked") };
    inbox.checked(&of, Some(false));
    assert!(matches!(inbox.take(later), Taken::Event(SourceEvent::Revoked(p)) if p == names));
    assert!(matches!(inbox.take(later), Taken::Event(SourceEvent::Assigned(p)) if p == names));
    assert!(matches!(inbox.take(later), Taken::Nothing(None)));
    inbox.start(&before, marked(1), later).expect_err("that assignment is over");
    assert!(inbox.unacknowledged(&names).is_empty(), "what was told was about other records");
    assert_eq!(inbox.due(), (vec![], vec![]));
    begin(&inbox, &names[0], 1, later);
    inbox.push("t", 0, raw(1), later);
    assert_eq!(offsets(&inbox, later), Some((0, vec![1])));
}

#[test]
fn what_was_told_is_kept_until_it_is_acknowledged() {
    let (inbox, names) = inbox(AT_ONCE, 2);
    let assignment = inbox.told(&names[0], &marked(3)).expect("assigned");
    inbox.told(&names[0], &marked(5)).expect("assigned");
    inbox.acknowledged(&assignment, &marked(3));
    assert_eq!(inbox.unacknowledged(&names), [(assignment.clone(), marked(5))]);
    assert!(inbox.unacknowledged(&names[1..]).is_empty());
    inbox.acknowledged(&assignment, &marked(5));
    assert!(inbox.unacknowledged(&names).is_empty());
}
