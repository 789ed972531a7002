//! Letters of a step are written in its commit, once.

use outbox_core::{
    projection::{DeadLetter, DeadLetterCause, ProjectionErrorKind},
    source::{Partition, RawRecord},
    testing::Sequencer,
};
use outbox_projector::sql::{BlockedKeys, Handler, Series};

use super::{keeping, list, record, rejected, step};
use crate::{
    sql::{
        Database, ReadModel,
        database::TestDatabase,
        faults::assert_nothing,
        handler::Trouble,
        model::{foreign, received},
        on_every_database,
    },
    support::within,
};

on_every_database!(
    a_letter_and_the_rest_of_its_step_are_one_commit,
    a_step_that_is_dropped_leaves_no_letter,
    the_same_letter_again_is_no_second_one,
    a_copy_of_an_event_that_is_given_up_has_no_effect,
    an_event_without_a_sequence_is_a_letter_once,
    the_event_at_fault_is_named,
    a_handler_can_ask_for_a_delay,
);

fn garbage(offset: u64) -> RawRecord {
    let bytes = |bytes: &'static [u8]| bytes::Bytes::from_static(bytes);
    let headers =
        vec![("\u{e4}".into(), bytes(b"\0\xff")), ("twice".into(), bytes(b"1")), ("twice".into(), bytes(b""))];
    RawRecord { offset, key: Some(bytes(b"\0key")), payload: Some(bytes(b"\xff{")), headers }
}

async fn a_letter_and_the_rest_of_its_step_are_one_commit<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..3).map(|n| received(&log, "a", n)).collect();
    let projection = keeping(database, BlockedKeys::Pass, &ReadModel::default());
    let undecodable = DeadLetter::undecodable(&Partition::new("p"), garbage(7), "no\0event");
    let letters = [rejected(&events[1]), undecodable.clone()];
    let applied = step(&projection, "1", &[events[0].clone(), events[2].clone()], &letters).await.expect("apply");
    assert_eq!((applied.applied, applied.held), (2, 0));
    assert_eq!(database.model().await.list("a"), [0, 2]);

    let kept = list(&projection).await;
    assert_eq!(kept.iter().map(|letter| letter.id).collect::<Vec<_>>(), [events[1].event.id, undecodable.id()]);
    let [first, second] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!(first.series, Some(Series::of_received(&events[1])));
    assert_eq!(first.sequence, events[1].origin.map(|origin| origin.sequence));
    assert_eq!((first.cause, &*first.reason, first.attempts), (DeadLetterCause::Rejected, "it is bad", 3));
    assert_eq!((&*first.place, first.partition.as_str(), first.is_whole), ("p@2", "p", true));
    let since = (first.at - letters[0].at).num_microseconds();
    assert!(since.is_some_and(|micros| micros.abs() <= 1), "{:?} and {:?}", first.at, letters[0].at);
    assert_eq!((second.series.as_ref(), second.sequence, second.attempts), (None, None, 0));
    assert_eq!((second.cause, &*second.reason), (DeadLetterCause::Undecodable, "no\u{fffd}event"));
    for (letter, raw) in [(first, record(&events[1])), (second, garbage(7))] {
        let (_, body) = projection.dead_letters().get(letter.id).await.expect("get").expect("there");
        let body = body.expect("kept here");
        assert_eq!((body.key, body.payload, body.headers), (raw.key, raw.payload, raw.headers));
    }
}

async fn a_step_that_is_dropped_leaves_no_letter<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..3).map(|n| received(&log, "a", n)).collect();
    let (rest, letters) = ([events[0].clone(), events[2].clone()], [rejected(&events[1])]);
    let handler = ReadModel::with(2, Trouble::Stall);
    let projection = keeping(database, BlockedKeys::Pass, &handler);
    within("the handler stalls", async {
        tokio::select! {
            applied = step(&projection, "1", &rest, &letters) => panic!("not stalled: {applied:?}"),
            () = handler.script.stalled.notified() => {}
        }
    })
    .await;
    assert_nothing(database).await;
    handler.trouble(2, Trouble::Fail);
    step(&projection, "1", &rest, &letters).await.expect_err("the handler fails");
    assert_nothing(database).await;
    handler.mend();
    step(&projection, "1", &rest, &letters).await.expect("apply");
    assert_eq!((database.model().await.list("a"), list(&projection).await.len()), (vec![0, 2], 1));
}

async fn the_same_letter_again_is_no_second_one<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let (one, two) = (received(&log, "a", 1), received(&log, "a", 2));
    let undecodable = DeadLetter::undecodable(&Partition::new("p"), garbage(0), "bad");
    let projection = keeping(database, BlockedKeys::Pass, &ReadModel::default());
    let letters = [rejected(&one), undecodable];
    for (to, applied) in [("1", 1), ("2", 0)] {
        let done = step(&projection, to, std::slice::from_ref(&two), &letters).await.expect("apply");
        assert_eq!(done.applied, applied);
        assert_eq!(list(&projection).await.len(), 2);
    }
    let again = step(&projection, "3", &[one.clone(), two], &[]).await.expect("apply");
    assert_eq!((again.applied, again.duplicates), (0, 2), "an event that is a letter counts as seen");

    projection.dead_letters().discard(&super::Letters::Id(one.event.id), "a test").await.expect("discard");
    step(&projection, "4", &[], &letters[..1]).await.expect("apply");
    assert_eq!(list(&projection).await.len(), 1, "what was discarded does not come back");
}

async fn a_copy_of_an_event_that_is_given_up_has_no_effect<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let projection = keeping(database, BlockedKeys::Pass, &ReadModel::default());
    for (to, event) in [("1", received(&log, "a", 1)), ("2", foreign("a", 2))] {
        let letter = DeadLetter::rejected(&Partition::new("p"), event.clone(), None, "it is bad", 1);
        let done = step(&projection, to, std::slice::from_ref(&event), &[letter]).await.expect("apply");
        assert_eq!((done.applied, done.duplicates), (0, 1));
        let later = step(&projection, &format!("{to}, later"), &[event], &[]).await.expect("apply");
        assert_eq!((later.applied, later.duplicates), (0, 1), "neither has one that comes later");
    }
    assert_eq!((database.model().await.list("a"), list(&projection).await.len()), (vec![], 2));
}

async fn an_event_without_a_sequence_is_a_letter_once<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let projection = keeping(database, BlockedKeys::Hold, &ReadModel::default());
    let (bad, good) = (foreign("a", 1), foreign("a", 2));
    let letter = DeadLetter::rejected(&Partition::new("p"), bad.clone(), None, "it is bad", 1);
    let done = step(&projection, "1", std::slice::from_ref(&good), std::slice::from_ref(&letter)).await.expect("apply");
    assert_eq!((done.applied, done.held), (1, 0), "nothing orders it");
    let again = step(&projection, "2", &[bad.clone(), good], &[]).await.expect("apply");
    assert_eq!(again.duplicates, 2);
    assert_eq!(super::counts(&super::replay(&projection, super::key_of(&bad)).await), (1, 0));
    let again = step(&projection, "3", &[bad], &[]).await.expect("apply");
    assert_eq!((again.duplicates, database.model().await.list("a")), (1, vec![2, 1]));
    step(&projection, "4", &[], &[letter]).await.expect("apply");
    assert_eq!(list(&projection).await, [], "what was replayed does not come back");
}

async fn the_event_at_fault_is_named<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..4).map(|n| received(&log, "a", n)).collect();
    for (trouble, kind) in [
        (Trouble::Reject, ProjectionErrorKind::Rejected),
        (Trouble::Fail, ProjectionErrorKind::Failed),
        (Trouble::Constraint, ProjectionErrorKind::Failed),
    ] {
        let projection = keeping(database, BlockedKeys::Pass, &ReadModel::with(2, trouble));
        let error = step(&projection, "1", &events, &[]).await.expect_err("trouble");
        assert_eq!((error.kind(), error.event(), error.delay()), (kind, Some(2), None), "{trouble:?}");
    }
    database.pool.close().await;
    let projection = keeping(database, BlockedKeys::Pass, &ReadModel::default());
    let error = projection.dead_letters().list(&super::LetterFilter::default(), 1).await.expect_err("closed");
    assert_eq!(error.kind(), ProjectionErrorKind::Unavailable);
}

async fn a_handler_can_ask_for_a_delay<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let projection = keeping(database, BlockedKeys::Pass, &ReadModel::with(1, Trouble::Later));
    let error = step(&projection, "1", &[received(&log, "a", 1)], &[]).await.expect_err("later");
    assert_eq!((error.kind(), error.event()), (ProjectionErrorKind::Failed, Some(0)));
    assert_eq!(error.delay(), Some(std::time::Duration::from_hours(1)));
}
