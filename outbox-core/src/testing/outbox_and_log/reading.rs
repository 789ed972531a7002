//! What a reader is promised while nobody writes.

use super::{
    LogHarness,
    steps::{
        NONE, all_lanes, at, beginning, ids, join_alone, new_ids, of_key, place, read_all, read_on, read_page,
        read_pages, register, sorted, whole, write,
    },
};
use crate::{
    event::{Lane, LaneSet, NewEvent},
    log::{Cursor, EventLog, LogErrorKind, StartAt},
    testing::event::numbered,
};

/// An event's lane is [`LaneCount::lane_of`](crate::event::LaneCount::lane_of) its
/// [lane key](crate::event::Event::lane_key), so that events of one key share it.
pub async fn lanes_follow_the_key<H: LogHarness>(harness: &H) {
    let lanes = harness.log().identity().await.expect("identity").lanes;
    let mut events = many();
    events.extend((0..10).map(|n| numbered("loose", n).unordered()));
    write(harness, &events).await;
    let read = read_all(harness.log()).await;
    assert_eq!(read.len(), events.len());
    for recorded in read {
        let key = recorded.event.lane_key().into_owned();
        assert_eq!(recorded.lane, lanes.lane_of(&key), "lane of key {key:?}");
    }
}

/// Reading some lanes yields the events of just these; all lanes read one by one yield every event once.
pub async fn lanes_divide_the_log<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events = many();
    write(harness, &events).await;
    let start = beginning(log).await;
    let every = all_lanes(log).await;
    let (even, odd): (Vec<Lane>, Vec<Lane>) = every.iter().partition(|lane| lane.get() % 2 == 0);
    let mut seen = Vec::new();
    for lanes in [even, odd].map(|lanes| lanes.into_iter().collect::<LaneSet>()) {
        let (read, _) = read_pages(log, &start, lanes, 7).await;
        assert!(read.iter().all(|r| lanes.contains(r.lane)), "only the lanes asked for: {lanes:?}");
        seen.extend(ids(&read));
    }
    assert_eq!(sorted(seen), sorted(new_ids(&events)));
    let (none, _) = read_pages(log, &start, LaneSet::EMPTY, 100).await;
    assert_eq!(ids(&none), NONE, "no lanes, no events");
}

/// Reading again from one cursor yields the same events in the same order, also when more was committed since.
pub async fn reading_again_yields_the_same<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &many()).await;
    let start = beginning(log).await;
    let (first, _) = read_on(log, &start).await;
    let (second, end) = read_on(log, &start).await;
    assert_eq!(first, second);

    let later = numbered("later", 1);
    write(harness, std::slice::from_ref(&later)).await;
    let (again, _) = read_on(log, &start).await;
    assert_eq!(again[..first.len()], first);
    assert_eq!(ids(&read_on(log, &end).await.0), [later.event().id]);
}

/// Pages never exceed their limit, and following [`Page::next`](crate::log::Page::next) reaches the end however small
/// the pages are, with every event once.
pub async fn pages_respect_the_limit_and_reach_the_end<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events = many();
    for chunk in events.chunks(9) {
        write(harness, chunk).await;
    }
    let (start, lanes) = (beginning(log).await, all_lanes(log).await);
    let (whole, _) = read_pages(log, &start, lanes, 1_000).await;
    assert_eq!(sorted(ids(&whole)), sorted(new_ids(&events)));
    for limit in [1, 2, 7] {
        let (read, end) = read_pages(log, &start, lanes, limit).await;
        assert_eq!(sorted(ids(&read)), sorted(ids(&whole)), "in pages of {limit}");
        let page = read_page(log, &end, lanes, limit).await;
        assert!(page.events.is_empty() && page.caught_up, "the end is the end");
    }
}

/// Sequences of one key increase along the path, and every event names the log's own identity.
pub async fn sequences_increase_per_key<H: LogHarness>(harness: &H) {
    let identity = harness.log().identity().await.expect("identity");
    for n in 0..12 {
        write(harness, &[numbered("a", n), numbered("b", n), numbered("a", n + 100)]).await;
    }
    let read = read_all(harness.log()).await;
    assert_eq!(read.len(), 36);
    for lane_key in ["Suite/a", "Suite/b"] {
        let sequences: Vec<_> = of_key(&read, lane_key).map(|r| r.origin.sequence).collect();
        assert!(sequences.is_sorted_by(|a, b| a < b), "sequences of {lane_key}: {sequences:?}");
    }
    for recorded in read {
        assert_eq!(recorded.origin.log, identity.id);
        assert_eq!(recorded.origin.sequence.generation(), identity.generation);
    }
}

/// An empty log is read to its end at once, and the cursor from there sees what comes.
pub async fn an_empty_log_is_caught_up<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (nothing, end) = read_on(log, &beginning(log).await).await;
    assert_eq!(ids(&nothing), NONE);
    let event = numbered("first", 1);
    write(harness, std::slice::from_ref(&event)).await;
    assert_eq!(ids(&read_on(log, &end).await.0), [event.event().id]);
}

/// A cursor that is not of this log is refused as [`LogErrorKind::BadCursor`].
pub async fn a_foreign_cursor_is_refused<H: LogHarness>(harness: &H) {
    let lanes = all_lanes(harness.log()).await;
    for foreign in ["", "no cursor of any log", "-1", "18446744073709551616"] {
        let refused = harness.log().read(&at(&Cursor::from_text(foreign), lanes), 10).await;
        let refused = refused.expect_err("a foreign cursor");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor, "for {foreign:?}: {refused}");
    }
}

/// Another handle on the log sees its identity, events, consumers and checkpoints, and its cursors fit both.
pub async fn another_handle_sees_the_same_log<H: LogHarness>(harness: &H) {
    let (log, other) = (harness.log(), harness.open_again().await);
    assert_eq!(other.identity().await.expect("identity"), log.identity().await.expect("identity"));

    let events = [numbered("a", 1), numbered("b", 2)];
    write(harness, &events).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (read, end) = read_on(&other, &start).await;
    assert_eq!(sorted(ids(&read)), sorted(new_ids(&events)));

    let (assignment, _) = join_alone(log, &consumer).await;
    log.checkpoint(&assignment.fence, &whole(log, &end).await).await.expect("checkpoint");
    assert_eq!(place(&other, &consumer).await, end);
    other.leave(&assignment.fence).await.expect("leave through the other handle");
}

/// Events of many keys, more than one a key.
fn many() -> Vec<NewEvent> {
    (0..100).map(|n| numbered(&format!("key-{}", n % 40), n)).collect()
}
