//! What holds while several transactions are open.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use futures_util::future::join_all;
use uuid::Uuid;

use super::{
    LogHarness,
    steps::{NONE, all_lanes, beginning, ids, new_ids, read_on, read_page, sorted, write},
};
use crate::{
    event::RecordedEvent,
    log::EventLog,
    outbox::Outbox,
    testing::{
        event::numbered,
        suite::{skip, within},
    },
};

/// An event whose transaction commits after a reader has already passed later ones is still delivered. (A reader that
/// remembers only the highest position loses it.)
pub async fn a_late_commit_is_not_lost<H: LogHarness>(harness: &H) {
    if !concurrent(harness, "a_late_commit_is_not_lost") {
        return;
    }
    let log = harness.log();
    let (late, early) = (numbered("late", 1), numbered("early", 2));
    let mut slow = harness.begin().await;
    let _receipt = log.append(&mut slow, std::slice::from_ref(&late)).await.expect("append");
    write(harness, std::slice::from_ref(&early)).await;

    let (read, passed) = read_on(log, &beginning(log).await).await;
    assert_eq!(ids(&read), [early.event().id], "the committed event and only it");
    harness.commit(slow).await;
    let (read, _) = read_on(log, &passed).await;
    assert_eq!(ids(&read), [late.event().id], "the late event and only it");
}

/// A transaction that stays open keeps neither writers of other keys nor readers waiting, and what it rolls back is
/// never read.
pub async fn an_open_transaction_holds_nobody_else_back<H: LogHarness>(harness: &H) {
    if !concurrent(harness, "an_open_transaction_holds_nobody_else_back") {
        return;
    }
    let log = harness.log();
    let mut open = harness.begin().await;
    let _receipt = log.append(&mut open, &[numbered("open", 1)]).await.expect("append");

    let events: Vec<_> = (0..20).map(|n| numbered("other", n)).collect();
    let (read, end) = within("writers and readers beside an open transaction", async {
        for event in &events {
            write(harness, std::slice::from_ref(event)).await;
        }
        read_on(log, &beginning(log).await).await
    })
    .await;
    assert_eq!(ids(&read), new_ids(&events));
    harness.rollback(open).await;
    assert_eq!(ids(&read_on(log, &end).await.0), NONE);
}

/// Of two transactions that write one key at once, the one that commits first is read first, whether the second had
/// to wait or not.
pub async fn commit_order_is_kept_between_two_writers_of_a_key<H: LogHarness>(harness: &H) {
    if !concurrent(harness, "commit_order_is_kept_between_two_writers_of_a_key") {
        return;
    }
    let log = harness.log();
    let (first, second) = (numbered("key", 1), numbered("key", 2));
    let mut tx = harness.begin().await;
    let _receipt = log.append(&mut tx, std::slice::from_ref(&first)).await.expect("append");

    let mut overtaking = Box::pin(write(harness, std::slice::from_ref(&second)));
    // Either it commits beside the open transaction, or it waits for its end: absence of a commit has no signal.
    let overtook = crate::testing::suite::soon(&mut overtaking).await.is_some();
    harness.commit(tx).await;
    if !overtook {
        within("the second writer, after the first committed", overtaking.as_mut()).await;
    }
    let expected = if overtook { [&second, &first] } else { [&first, &second] };
    let (read, _) = read_on(log, &beginning(log).await).await;
    assert_eq!(ids(&read), expected.map(|e| e.event().id), "second writer committed first: {overtook}");
}

/// A writer of an unordered event waits for nobody, though an open transaction writes the same aggregate, ordered and
/// unordered.
pub async fn unordered_events_wait_for_nobody<H: LogHarness>(harness: &H) {
    if !concurrent(harness, "unordered_events_wait_for_nobody") {
        return;
    }
    let log = harness.log();
    let mut open = harness.begin().await;
    let held = [numbered("key", 1), numbered("key", 2).unordered()];
    let _receipt = log.append(&mut open, &held).await.expect("append");
    let free = numbered("key", 3).unordered();
    within("an unordered event beside an open transaction", write(harness, std::slice::from_ref(&free))).await;
    let (read, end) = read_on(log, &beginning(log).await).await;
    assert_eq!(ids(&read), [free.event().id]);
    harness.commit(open).await;
    assert_eq!(sorted(ids(&read_on(log, &end).await.0)), sorted(new_ids(&held)));
}

/// While many transactions commit and roll back, a reader that follows them sees every committed event once, no other,
/// and those of one key in the order of commit with increasing sequences.
pub async fn order_survives_many_writers<H: LogHarness>(harness: &H) {
    if !concurrent(harness, "order_survives_many_writers") {
        return;
    }
    let clock = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let writers = async {
        let written = join_all((0..WRITERS).map(|writer| run_writer(harness, writer, &clock))).await;
        done.store(true, Ordering::SeqCst);
        written.into_iter().flatten().collect::<HashMap<Uuid, Written>>()
    };
    let both = async { tokio::join!(writers, follow(harness, &done)) };
    let (written, read) = within("writers and reader", both).await;

    let mut seen = std::collections::HashSet::new();
    for recorded in &read {
        assert!(written.contains_key(&recorded.event.id), "read but never committed: {recorded:?}");
        assert!(seen.insert(recorded.event.id), "read twice: {recorded:?}");
    }
    assert_eq!(read.len(), written.len(), "every committed event is read");
    for (i, later) in read.iter().enumerate() {
        for earlier in read[..i].iter().filter(|e| e.event.lane_key() == later.event.lane_key()) {
            assert_in_order(earlier, later, &written);
        }
    }
}

const WRITERS: u64 = 5;
const KEYS: u64 = 3;

/// When a transaction was, on a clock that ticks with every begin and commit.
#[derive(Debug)]
struct Written {
    begun: u64,
    committed: u64,
    index: usize,
}

async fn run_writer<H: LogHarness>(harness: &H, writer: u64, clock: &AtomicU64) -> Vec<(Uuid, Written)> {
    let mut written = Vec::new();
    for round in 0..12 {
        let (one, other) = ((writer + round) % KEYS, (writer * round) % KEYS);
        let events = [one, other, one].map(|key| numbered(&format!("key-{key}"), round));
        let begun = clock.fetch_add(1, Ordering::SeqCst);
        let mut tx = harness.begin().await;
        let receipt = harness.log().append(&mut tx, &events).await.expect("append");
        // Lets transactions of different keys overlap also where nothing else makes them wait.
        tokio::task::yield_now().await;
        if round % 4 == writer % 4 {
            harness.rollback(tx).await;
            continue;
        }
        harness.commit(tx).await;
        receipt.committed();
        let committed = clock.fetch_add(1, Ordering::SeqCst);
        written.extend(events.iter().enumerate().map(|(index, e)| (e.event().id, Written { begun, committed, index })));
    }
    written
}

async fn follow<H: LogHarness>(harness: &H, done: &AtomicBool) -> Vec<RecordedEvent> {
    let log = harness.log();
    let (mut cursor, lanes) = (beginning(log).await, all_lanes(log).await);
    let mut events = Vec::new();
    loop {
        let last_look = done.load(Ordering::SeqCst);
        let page = read_page(log, &cursor, lanes, 5).await;
        events.extend(page.events);
        cursor = page.next;
        if page.caught_up {
            if last_look {
                return events;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn assert_in_order(earlier: &RecordedEvent, later: &RecordedEvent, written: &HashMap<Uuid, Written>) {
    assert!(earlier.origin.sequence < later.origin.sequence, "sequences go back: {earlier:?} before {later:?}");
    let (a, b) = (&written[&earlier.event.id], &written[&later.event.id]);
    let same_transaction = a.begun == b.begun;
    let ordered = if same_transaction { a.index < b.index } else { b.committed > a.begun };
    assert!(ordered, "{later:?} ({b:?}) was committed before {earlier:?} ({a:?}) but read after it");
}

/// Whether a case about transactions side by side applies.
pub(super) fn concurrent<H: LogHarness>(harness: &H, case: &str) -> bool {
    let able = harness.log().capabilities().concurrent_writers;
    if !able {
        skip(case, "the log declares that it has no concurrent writers");
    }
    able
}
