//! Removing events.

use std::time::Duration;

use outbox_core::{
    event::NewEvent,
    log::{EventLog as _, LogAdmin as _, RetentionPolicy, StartAt, Track},
    outbox::Outbox as _,
};

use super::bed::{SqliteBed, connect, join};
use crate::support::{changed, consumer, version};

/// A plain rowid would begin again, and a reader would take new events for old ones.
#[tokio::test]
async fn positions_go_on_after_retention_emptied_the_table() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    bed.write_versions(1, 1..=2).await;
    assert_eq!(member.consume().await.len(), 2);
    assert_eq!(bed.log.prune(&RetentionPolicy::default()).await.expect("prune").removed, 2);
    bed.write_versions(1, 3..=3).await;
    let came = member.consume().await;
    assert_eq!(came.iter().map(|event| version(event).1).collect::<Vec<_>>(), [3]);
    assert_eq!(came[0].origin.sequence.position(), 3);
}

/// Readers that were behind and in front of what was removed meet at the end.
#[tokio::test]
async fn removed_positions_are_passed() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    bed.write_versions(1, 1..=3).await;
    let old = member.assignment.tracks[0].clone();
    member.consume().await;
    assert_eq!(bed.log.prune(&RetentionPolicy::default()).await.expect("prune").removed, 3);
    let new = member.assignment.tracks[0].clone();
    let pages = bed.log.read(&[old, new.clone()], 10).await.expect("read");
    for page in pages {
        assert_eq!((page.events.len(), page.next, page.caught_up), (0, new.cursor.clone(), true));
    }
}

#[tokio::test]
async fn steps_are_bounded_and_say_whether_there_is_more() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    for _ in 0..5 {
        bed.write_versions(1, 1..=1_000).await;
    }
    member.consume().await;
    let policy = RetentionPolicy::default().keep_events(500).steps(1);
    let mut removed = Vec::new();
    loop {
        let pruned = bed.log.prune(&policy).await.expect("prune");
        removed.push(pruned.removed);
        assert_eq!(pruned.held_back_by, None);
        if !pruned.more {
            break;
        }
    }
    assert_eq!(removed, [2_000, 2_000, 500]);
    assert_eq!(bed.number("SELECT count(*) FROM outbox_event").await, 500);
    assert_eq!(bed.number("SELECT low FROM outbox_retention").await, 4_500);
    let again = bed.log.prune(&RetentionPolicy::default().keep_events(500)).await.expect("prune");
    assert_eq!((again.removed, again.more), (0, false));
}

/// Large events are removed a few at a time, since writers wait for each step.
#[tokio::test]
async fn a_step_is_bounded_by_the_size_of_its_events_too() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    let large = serde_json::json!({ "v": 1, "text": "x".repeat(900_000) });
    for _ in 0..5 {
        let event = NewEvent::json("Agg", 1, "AggChanged", &large).expect("event");
        bed.write(&[event.clone(), event.clone(), event.clone(), event]).await;
    }
    member.consume().await;
    let step = RetentionPolicy::default().steps(1);
    for (removed, more) in [(10, true), (10, false)] {
        let pruned = bed.log.prune(&step).await.expect("prune");
        assert_eq!((pruned.removed, pruned.more, pruned.held_back_by), (removed, more, None));
    }
    assert_eq!(bed.number("SELECT count(*) FROM outbox_event").await, 0);
}

/// One lane of one consumer decides.
#[tokio::test]
async fn a_lagging_lane_holds_everything_behind_it() {
    let bed = SqliteBed::create().await;
    let mut quick = bed.member("quick").await;
    let slow = bed.member("slow").await;
    bed.write_versions(1, 1..=10).await;
    quick.consume().await;

    let track = &slow.assignment.tracks[0];
    let first = bed.log.read(&slow.assignment.tracks, 4).await.expect("read").remove(0);
    let end = bed.log.read(&slow.assignment.tracks, 100).await.expect("read").remove(0).next;
    let lane = first.events[0].lane;
    let lagging = outbox_core::event::LaneSet::from_iter([lane]);
    let tracks =
        [Track { cursor: first.next, lanes: lagging }, Track { cursor: end, lanes: track.lanes.difference(lagging) }];
    bed.log.checkpoint(slow.fence(), &tracks).await.expect("checkpoint");
    let pruned = bed.log.prune(&RetentionPolicy::default()).await.expect("prune");
    assert_eq!((pruned.removed, pruned.held_back_by), (4, Some(slow.name.clone())));

    // Owned by nobody, it is where it was.
    bed.log.leave(slow.fence()).await.expect("leave");
    assert_eq!(bed.log.prune(&RetentionPolicy::default()).await.expect("prune").removed, 0);
    bed.log.drop_consumer(&slow.name).await.expect("drop");
    let pruned = bed.log.prune(&RetentionPolicy::default()).await.expect("prune");
    assert_eq!((pruned.removed, pruned.held_back_by), (6, None));
}

/// One registered after events were removed begins at the first that is left, and holds back only what is left.
#[tokio::test]
async fn a_consumer_that_comes_later_begins_at_what_is_left() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    bed.write_versions(1, 1..=4).await;
    member.consume().await;
    bed.log.prune(&RetentionPolicy::default().keep_events(1)).await.expect("prune");
    let late = consumer(&bed.log, "late").await;
    let policy = RetentionPolicy::default().keep_events(1);
    assert_eq!(bed.log.prune(&policy).await.expect("prune").held_back_by, None, "the policy keeps what it needs");
    let pruned = bed.log.prune(&RetentionPolicy::default()).await.expect("prune");
    assert_eq!((pruned.removed, pruned.held_back_by), (0, Some(late.clone())));
    let events = super::bed::read_on(&bed.log, &mut join(&bed.log, &late).await.tracks).await;
    assert_eq!(events.iter().map(|event| version(event).1).collect::<Vec<_>>(), [4]);
}

/// By age it stops at the first event that is too young, though older ones stand behind it.
#[tokio::test]
async fn age_ends_at_the_first_young_event() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    let hours_ago = |hours: i64, v: i64| -> NewEvent {
        changed(1, v).with_created_at(chrono::Utc::now() - chrono::TimeDelta::hours(hours))
    };
    bed.write(&[hours_ago(9, 1), hours_ago(8, 2), hours_ago(1, 3), hours_ago(9, 4), hours_ago(0, 5)]).await;
    member.consume().await;
    let policy = RetentionPolicy::default().keep_for(Duration::from_hours(2));
    let pruned = bed.log.prune(&policy).await.expect("prune");
    assert_eq!((pruned.removed, pruned.more, pruned.held_back_by), (2, false, None));

    let name = outbox_core::log::ConsumerName::parse("since").expect("name");
    let since = chrono::Utc::now() - chrono::TimeDelta::minutes(30);
    bed.log.register(&name, StartAt::Time(since)).await.expect("register");
    let events = super::bed::read_on(&bed.log, &mut join(&bed.log, &name).await.tracks).await;
    assert_eq!(events.iter().map(|event| version(event).1).collect::<Vec<_>>(), [5]);
}

/// Another process that writes all the time gets its turn, and no insert fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_while_events_are_removed() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    for _ in 0..20 {
        bed.write_versions(1, 1..=1_000).await;
    }
    let end = bed.log.read(&member.assignment.tracks, 50_000).await.expect("read").remove(0).next;
    member.assignment.tracks[0].cursor = end;
    member.checkpoint().await;

    let pool = connect(&bed.path(), 1).await;
    let log = bed.log.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let (mut written, mut slowest) = (0_i64, Duration::ZERO);
        while stopped.try_recv().is_err() {
            let begun = std::time::Instant::now();
            let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.expect("begin");
            written += 1;
            let _receipt = log.append(&mut tx, &[changed(2, written)]).await.expect("append");
            tx.commit().await.expect("commit");
            slowest = slowest.max(begun.elapsed());
        }
        (written, slowest)
    });
    let pruned = bed.log.prune(&RetentionPolicy::default()).await.expect("prune");
    stop.send(()).expect("the writer runs");
    let (written, slowest) = writing.await.expect("writer");
    eprintln!("{} removed while {written} were written, the slowest in {slowest:?}", pruned.removed);
    assert_eq!(pruned.removed, 20_000);
    assert!(written > 0);
    assert_eq!(member.consume().await.len() as i64, written);
}
