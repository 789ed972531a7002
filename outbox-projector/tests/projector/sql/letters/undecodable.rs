//! Records that could not be decoded, and can be later.

use std::sync::Arc;

use bytes::Bytes;
use outbox_core::{
    event::ReceivedEvent,
    profile::{CodecError, CodecErrorKind, Decoder, SeedEnvelope},
    projection::{DeadLetter, DeadLetterCause},
    source::{Partition, RawRecord},
    testing::Sequencer,
};
use outbox_projector::sql::{BlockedKeys, Handler, Letters, Replay, Series};

use super::{counts, keeping, list, record, rejected, replay, step};
use crate::sql::{Database, ReadModel, database::TestDatabase, handler::Trouble, model::received, on_every_database};

on_every_database!(
    a_mended_decoder_makes_an_event_of_it,
    an_event_of_two_undecodable_records_has_one_effect,
    what_came_again_and_was_applied_is_not_applied_by_its_letter,
    letters_of_a_key_go_in_order_whether_they_could_be_decoded_or_not,
    with_held_keys_the_order_is_the_same,
    where_one_that_can_be_decoded_by_now_fails_its_key_waits_behind_it,
);

/// Reads what the default encoder wrote, behind a byte that it does not know.
struct Mended;

impl Decoder for Mended {
    fn decode(
        &self,
        key: Option<&Bytes>,
        payload: Option<&Bytes>,
        headers: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError> {
        let payload = payload.filter(|payload| payload.first() == Some(&b'!')).map(|payload| payload.slice(1..));
        let payload = payload.ok_or_else(|| CodecError::new(CodecErrorKind::Malformed, "no mark"))?;
        SeedEnvelope.decode(key, Some(&payload), headers)
    }
}

pub(super) fn undecodable(received: &ReceivedEvent, offset: u64) -> DeadLetter {
    let RawRecord { key, payload, headers, .. } = record(received);
    let payload = payload.map(|payload| Bytes::from([b"!", &*payload].concat()));
    DeadLetter::undecodable(&Partition::new("p"), RawRecord { offset, key, payload, headers }, "bad mark")
}

fn mended(which: Letters) -> Replay {
    Replay::of(which).decoder(Arc::new(Mended))
}

async fn a_mended_decoder_makes_an_event_of_it<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let (one, two) = (received(&log, "a", 1), received(&log, "a", 2));
    let handler = ReadModel::with(1, Trouble::Reject);
    let projection = keeping(database, BlockedKeys::Hold, &handler);
    let letter = undecodable(&one, 0);
    let applied = step(&projection, "1", std::slice::from_ref(&two), std::slice::from_ref(&letter)).await;
    assert_eq!(applied.expect("apply").held, 0, "its key is not known");

    let report = replay(&projection, Letters::All).await;
    assert_eq!(counts(&report), (0, 1));
    let (kept, _) = projection.dead_letters().get(letter.id()).await.expect("get").expect("there");
    assert!(kept.attempts == 1 && kept.reason.contains("cannot be decoded"), "{kept:?}");
    projection.dead_letters().replay(&mended(Letters::All)).await.expect("replay");
    let (kept, _) = projection.dead_letters().get(letter.id()).await.expect("get").expect("there");
    assert_eq!(
        (kept.attempts, kept.series),
        (2, Some(Series::of_received(&one))),
        "rejected, and its key is known now"
    );
    assert_eq!(kept.cause, DeadLetterCause::Undecodable);
    handler.mend();
    let dry = projection.dead_letters().replay(&mended(Letters::Id(letter.id())).dry_run()).await.expect("replay");
    assert_eq!((counts(&dry), database.model().await.list("a")), ((1, 0), vec![2]));
    let report = projection.dead_letters().replay(&mended(Letters::Id(letter.id()))).await.expect("replay");
    assert_eq!((counts(&report), database.model().await.list("a")), ((1, 0), vec![2, 1]));
    let again = step(&projection, "2", &[one, two], &[]).await.expect("apply");
    assert_eq!((again.duplicates, list(&projection).await.len()), (2, 0));
}

async fn an_event_of_two_undecodable_records_has_one_effect<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let (one, two) = (received(&log, "a", 1), received(&log, "a", 2));
    let projection = keeping(database, BlockedKeys::Pass, &ReadModel::default());
    step(&projection, "1", &[two], &[undecodable(&one, 0), undecodable(&one, 1)]).await.expect("apply");
    let report = projection.dead_letters().replay(&mended(Letters::All)).await.expect("replay");
    assert_eq!((report.totals().applied, report.totals().duplicates, report.left()), (1, 1, 0));
    step(&projection, "2", &[], &[undecodable(&one, 2)]).await.expect("apply");
    let report = projection.dead_letters().replay(&mended(Letters::All)).await.expect("replay");
    assert_eq!((report.totals().duplicates, database.model().await.list("a")), (1, vec![2, 1]));
}

async fn what_came_again_and_was_applied_is_not_applied_by_its_letter<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let one = received(&log, "a", 1);
    let projection = keeping(database, BlockedKeys::Pass, &ReadModel::default());
    step(&projection, "1", &[], &[undecodable(&one, 0)]).await.expect("apply");
    step(&projection, "2", &[one], &[]).await.expect("it came again, and could be decoded");
    let report = projection.dead_letters().replay(&mended(Letters::All)).await.expect("replay");
    assert_eq!((report.totals().duplicates, database.model().await.list("a")), (1, vec![1]));

    let two = received(&log, "a", 2);
    step(&projection, "3", &[], &[undecodable(&two, 1)]).await.expect("apply");
    let report = projection.dead_letters().replay(&mended(Letters::All)).await.expect("replay");
    assert_eq!(counts(&report), (1, 0));
    let again = step(&projection, "4", &[two], &[]).await.expect("it comes again, and can be decoded");
    assert_eq!((again.duplicates, database.model().await.list("a")), (1, vec![1, 2]));
}

async fn letters_of_a_key_go_in_order_whether_they_could_be_decoded_or_not<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..4).map(|n| received(&log, "a", n)).collect();
    let projection = keeping(database, BlockedKeys::Pass, &ReadModel::default());
    let letters = [rejected(&events[2]), undecodable(&events[0], 0), undecodable(&events[3], 3), rejected(&events[1])];
    step(&projection, "1", &[], &letters).await.expect("apply");
    // What could be decoded was written by the default encoder, and the mended decoder does not know it.
    let both = Replay::of(Letters::All).decoder(Arc::new(Either));
    let report = projection.dead_letters().replay(&both).await.expect("replay");
    assert_eq!((counts(&report), database.model().await.list("a")), ((4, 0), vec![0, 1, 2, 3]));
}

/// The letters of the key alone are enough.
async fn with_held_keys_the_order_is_the_same<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..8).map(|n| received(&log, if n < 4 { "a" } else { "b" }, n)).collect();
    let (a, b) = events.split_at(4);
    let projection = keeping(database, BlockedKeys::Hold, &ReadModel::default());
    for (to, key) in [("1", a), ("2", b)] {
        let letters = [rejected(&key[0]), undecodable(&key[1], 1), undecodable(&key[2], 2)];
        let held = step(&projection, to, &key[3..], &letters).await.expect("apply");
        assert_eq!(held.held, 1);
    }
    for which in [super::key_of(&b[0]), Letters::All] {
        let replay = Replay::of(which).decoder(Arc::new(Either));
        let before = list(&projection).await;
        let dry = projection.dead_letters().replay(&replay.clone().dry_run()).await.expect("replay");
        assert_eq!(list(&projection).await, before);
        let report = projection.dead_letters().replay(&replay).await.expect("replay");
        assert_eq!((&report, counts(&report)), (&dry, (4, 0)));
    }
    let model = database.model().await;
    assert_eq!((model.list("a"), model.list("b")), (vec![0, 1, 2, 3], vec![4, 5, 6, 7]));
}

async fn where_one_that_can_be_decoded_by_now_fails_its_key_waits_behind_it<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..4).map(|n| received(&log, "a", n)).collect();
    let handler = ReadModel::with(1, Trouble::Reject);
    let projection = keeping(database, BlockedKeys::Hold, &handler);
    // Given up in another order than they were written.
    let letters = [undecodable(&events[2], 2), undecodable(&events[1], 1), undecodable(&events[0], 0)];
    step(&projection, "1", &[], &letters).await.expect("apply");
    let dry = projection.dead_letters().replay(&mended(Letters::All).dry_run()).await.expect("replay");
    assert!(list(&projection).await.iter().all(|letter| letter.series.is_none()), "a dry run files nothing");
    let report = projection.dead_letters().replay(&mended(Letters::All)).await.expect("replay");
    assert_eq!((&report, counts(&report)), (&dry, (1, 2)));
    let attempts: Vec<_> = list(&projection).await.iter().map(|letter| (letter.id, letter.attempts)).collect();
    assert_eq!(attempts, [(letters[0].id(), 0), (letters[1].id(), 1)]);

    let later = step(&projection, "2", &events[3..], &[]).await.expect("apply");
    assert_eq!((later.applied, later.held), (0, 1), "its key is known, and has letters");
    let by_itself = projection.dead_letters().replay(&mended(Letters::Id(letters[0].id()))).await.expect("replay");
    assert_eq!(counts(&by_itself), (0, 1), "an earlier one waits");
    handler.mend();
    let report = projection.dead_letters().replay(&mended(Letters::All)).await.expect("replay");
    assert_eq!((counts(&report), database.model().await.list("a")), ((3, 0), vec![0, 1, 2, 3]));
}

pub(super) struct Either;

impl Decoder for Either {
    fn decode(
        &self,
        key: Option<&Bytes>,
        payload: Option<&Bytes>,
        headers: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError> {
        Mended.decode(key, payload, headers).or_else(|_| SeedEnvelope.decode(key, payload, headers))
    }
}
