//! Replays that fail, that are tried only, and that meet each other.

use std::sync::Arc;

use bytes::Bytes;
use outbox_core::{
    event::ReceivedEvent,
    profile::{CodecError, Decoder, RawPayload},
    projection::DeadLetter,
    source::{Partition, RawRecord},
    testing::{Sequencer, number_of},
};
use outbox_projector::sql::{BlockedKeys, Handler, LetterFilter, Letters, Replay, Series};

use super::{counts, keeping, key_of, list, rejected, replay, step};
use crate::sql::{
    Database, ReadModel,
    database::TestDatabase,
    handler::Trouble,
    model::{Model, received},
    on_every_database,
};

on_every_database!(
    where_a_letter_fails_the_rest_of_its_key_stays,
    a_dry_run_says_what_would_happen_and_changes_nothing,
    two_replays_at_once_apply_once,
    a_letter_that_another_decoder_wrote_is_not_misread,
    a_record_that_raw_payload_wrote_is_read_by_the_decoder_that_is_given,
    letters_are_listed_by_key_and_cause_from_either_end,
);

async fn where_a_letter_fails_the_rest_of_its_key_stays<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let a: Vec<_> = (0..60).map(|n| received(&log, "a", n)).collect();
    let b: Vec<_> = (60..62).map(|n| received(&log, "b", n)).collect();
    let handler = ReadModel::default();
    let projection = keeping(database, BlockedKeys::Hold, &handler);
    let rest: Vec<_> = a[1..].iter().chain(&b[1..]).cloned().collect();
    step(&projection, "1", &rest, &[rejected(&a[0]), rejected(&b[0])]).await.expect("apply");
    assert_eq!(list(&projection).await.len(), 62);

    for (at, trouble) in [(5, Trouble::Reject), (55, Trouble::Panic)] {
        handler.trouble(at, trouble);
        let report = replay(&projection, Letters::All).await;
        assert_eq!(database.model().await.list("a"), (0..at).collect::<Vec<_>>());
        assert_eq!(database.model().await.list("b"), [60, 61], "other keys follow");
        let [of_a, ..] = &report.keys[..] else { panic!("{report:?}") };
        assert_eq!(of_a.left, 60 - at as usize);
        assert!(of_a.error.as_ref().is_some_and(|error| error.contains("the script says so")), "{report:?}");
        let (letter, _) = projection.dead_letters().get(a[at as usize].event.id).await.expect("get").expect("there");
        assert!(letter.attempts == 1 && letter.reason.contains("the script says so"), "{letter:?}");
        let (next, _) = projection.dead_letters().get(a[at as usize + 1].event.id).await.expect("get").expect("there");
        assert_eq!(next.attempts, 0);
        let held = step(&projection, &at.to_string(), &[received(&log, "c", 100 + at)], &[]).await.expect("apply");
        assert_eq!(held.applied, 1);
        handler.mend();
    }
    assert_eq!(counts(&replay(&projection, Letters::All).await), (5, 0));
    assert_eq!(database.model().await.list("a"), (0..60).collect::<Vec<_>>());
}

async fn a_dry_run_says_what_would_happen_and_changes_nothing<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let a: Vec<_> = (0..6).map(|n| received(&log, "a", n)).collect();
    let b: Vec<_> = (6..8).map(|n| received(&log, "b", n)).collect();
    let handler = ReadModel::default();
    let projection = keeping(database, BlockedKeys::Hold, &handler);
    let rest: Vec<_> = a[1..].iter().chain(&b[1..]).cloned().collect();
    step(&projection, "1", &rest, &[rejected(&a[0]), rejected(&b[0])]).await.expect("apply");
    handler.trouble(4, Trouble::Constraint);
    let before = (database.model().await, list(&projection).await, database.count("projector_seen").await);
    let dry = projection.dead_letters().replay(&Replay::of(Letters::All).dry_run()).await.expect("replay");
    assert_eq!((database.model().await, list(&projection).await, database.count("projector_seen").await), before);
    assert_eq!(counts(&dry), (4 + 2, 2));
    assert!(dry.keys[0].error.is_some() && dry.keys[1].error.is_none(), "{dry:?}");

    let report = replay(&projection, Letters::All).await;
    assert_eq!(counts(&report), counts(&dry), "and so it happens");
    assert_eq!(database.model().await.list("a"), [0, 1, 2, 3]);
}

async fn two_replays_at_once_apply_once<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..120).map(|n| received(&log, &format!("key-{}", n % 2), n)).collect();
    for (keys, to) in [(BlockedKeys::Hold, "1"), (BlockedKeys::Pass, "2")] {
        let projection = keeping(database, keys, &ReadModel::default());
        let (mine, expected) = events.split_at(if to == "1" { 60 } else { 0 });
        let mine = if to == "1" { mine } else { &expected[60..] };
        let letters: Vec<_> = mine.iter().map(rejected).collect();
        step(&projection, to, &[], &letters).await.expect("apply");
        let other = keeping(database, keys, &ReadModel::default());
        let (one, two) = tokio::join!(replay(&projection, Letters::All), replay(&other, Letters::All));
        assert_eq!(one.totals().applied + two.totals().applied, 60);
    }
    assert_eq!(database.model().await, Model::of(&events));
}

/// Other encoders write headers from which the raw one could decode an event, with another payload.
async fn a_letter_that_another_decoder_wrote_is_not_misread<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let event = received(&log, "a", 1);
    let projection = keeping(database, BlockedKeys::Pass, &ReadModel::default());
    step(&projection, "1", &[], &[rejected(&event)]).await.expect("apply");
    let other = std::sync::Arc::new(outbox_core::profile::CloudEvents::structured());
    let replayed = projection.dead_letters().replay(&Replay::of(Letters::All).decoder(other)).await.expect("replay");
    assert_eq!(counts(&replayed), (0, 1));
    assert!(replayed.keys[0].error.as_ref().is_some_and(|error| error.contains("decode")), "{replayed:?}");
    assert_eq!(counts(&replay(&projection, Letters::All).await), (1, 0));
    assert_eq!(database.model().await.list("a"), [1]);
}

/// Adds a hundred.
struct Mended;

impl Decoder for Mended {
    fn decode(
        &self,
        key: Option<&Bytes>,
        payload: Option<&Bytes>,
        headers: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError> {
        let mut read = RawPayload.decode(key, payload, headers)?;
        let number = number_of(&read.event).map(|n| n + 100);
        read.event.payload = Some(serde_json::json!({ "n": number }).to_string().into());
        Ok(read)
    }
}

async fn a_record_that_raw_payload_wrote_is_read_by_the_decoder_that_is_given<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let (of_a_topic, of_a_log) = (received(&log, "a", 1), received(&log, "b", 2));
    let projection = keeping(database, BlockedKeys::Pass, &ReadModel::default());
    let from_the_log =
        |event: &ReceivedEvent| DeadLetter::rejected(&Partition::new("log/1"), event.clone(), None, "it is bad", 1);
    let DeadLetter { key, payload, headers, .. } = from_the_log(&of_a_topic);
    let raw = RawRecord { offset: 0, key, payload, headers };
    let letter = DeadLetter::rejected(&Partition::new("p"), of_a_topic.clone(), Some(raw), "it is bad", 1);
    step(&projection, "1", &[], &[letter, from_the_log(&of_a_log)]).await.expect("apply");

    let report = replay(&projection, Letters::Key(Series::of_received(&of_a_topic))).await;
    assert_eq!(counts(&report), (0, 1), "the default decoder cannot read it");
    let mended = Replay::of(Letters::All).decoder(Arc::new(Mended));
    let report = projection.dead_letters().replay(&mended).await.expect("replay");
    assert_eq!(counts(&report), (2, 0));
    assert_eq!((database.model().await.list("a"), database.model().await.list("b")), (vec![101], vec![2]));
}

async fn letters_are_listed_by_key_and_cause_from_either_end<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let a: Vec<_> = (0..4).map(|n| received(&log, "a", n)).collect();
    let b = received(&log, "b", 4);
    let projection = keeping(database, BlockedKeys::Hold, &ReadModel::default());
    step(&projection, "1", &a[1..], &[rejected(&a[0]), rejected(&b)]).await.expect("apply");
    let second = outbox_projector::sql::ProjectionName::parse("second").expect("name");
    let second = outbox_projector::sql::SqlProjection::builder(database.pool.clone(), second, ReadModel::default());
    let second = second.dead_letters(BlockedKeys::Hold).build();
    step(&second, "1", &[], &[rejected(&a[0])]).await.expect("apply");

    let listed = async |filter: LetterFilter, limit| {
        let found = projection.dead_letters().list(&filter, limit).await.expect("list");
        found.into_iter().map(|letter| letter.id).collect::<Vec<_>>()
    };
    let id = |n: usize| a[n].event.id;
    let Letters::Key(of_a) = key_of(&a[0]) else { unreachable!() };
    let of_a = LetterFilter { series: Some(of_a), ..LetterFilter::default() };
    assert_eq!(listed(of_a.clone(), 10).await, [id(0), id(1), id(2), id(3)]);
    let newest = LetterFilter { newest_first: true, ..of_a.clone() };
    assert_eq!(listed(newest, 2).await, [id(3), id(2)]);
    let rejected = Some(outbox_core::projection::DeadLetterCause::Rejected);
    let all_rejected = LetterFilter { cause: rejected, ..LetterFilter::default() };
    assert_eq!(listed(all_rejected, 10).await, [id(0), b.event.id]);
    assert_eq!(listed(LetterFilter { cause: rejected, ..of_a }, 10).await, [id(0)]);
    assert_eq!((listed(LetterFilter::default(), 10).await.len(), list(&second).await.len()), (5, 1));
}
