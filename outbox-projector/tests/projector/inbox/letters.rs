//! Dead letters of side effects, replayed from a topic.

use std::{num::NonZeroU32, sync::Arc};

use bytes::Bytes;
use outbox_core::{
    error::chain,
    event::ReceivedEvent,
    memory::MemoryBroker,
    profile::{CodecError, CodecErrorKind, Decoder, Profile, SeedEnvelope},
    projection::{DeadLetter, ProjectionErrorKind},
    source::{Partition, RawRecord},
    testing::{Sequencer, number_of},
};
use outbox_projector::{
    ProjectorStatus,
    dead_letters::{Letters, Replay, ReplayReport, Series, TopicDeadLetters, TopicLetter, read_to_end, replay},
    sql::Handler,
};

use super::{Bed, Database, ReadModel, apply, effects, inbox, on_every_database};
use crate::{
    sql::{
        handler::Trouble,
        model::{foreign, received},
    },
    support::{Running, counted, projector, rejected},
};

on_every_database!(
    letters_of_a_topic_have_their_effect_in_order_and_once,
    a_letter_that_fails_stops_its_key_and_no_other,
    what_cannot_be_decoded_is_told,
    a_database_that_refuses_ends_the_replay,
);

/// As it stands in a topic.
fn letter(received: &ReceivedEvent) -> TopicLetter {
    TopicLetter::of("effects", &rejected(received))
}

fn all(letters: impl IntoIterator<Item = TopicLetter>) -> Replay {
    Replay::of(Letters::All).from_topic(letters)
}

/// Applied, duplicates and left.
fn counts(report: &ReplayReport) -> (usize, usize, usize) {
    (report.totals().applied, report.totals().duplicates, report.left())
}

async fn letters_of_a_topic_have_their_effect_in_order_and_once<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (broker, log) = (MemoryBroker::default(), Sequencer::default());
    let events: Vec<_> = (0..12).map(|n| log.record(counted(&format!("key-{}", n % 2), n))).collect();
    for event in &events {
        broker.write(Profile::default().message(event).expect("message"));
    }
    let handler = ReadModel::default();
    for n in [2, 3, 4, 7, 8] {
        handler.trouble(n, Trouble::Fail);
    }
    let topic = TopicDeadLetters::new(Arc::new(broker.publisher()), "letters");
    let source = broker.source("group", ["suite-events"], SeedEnvelope);
    let builder = projector(source, Arc::new(effects(database, handler.clone(), 1))).attempts(NonZeroU32::MIN);
    let mut running = Running::start(builder.dead_letters(Arc::new(topic)));
    let at_end =
        |s: &ProjectorStatus| s.partitions.values().any(|p| p.last_sequence.is_some_and(|s| s.position() == 12));
    running.until("the rest", at_end).await;
    running.stop().await.expect("run");
    let (even, odd) = (vec![0, 6, 10], vec![1, 5, 9, 11]);
    assert_eq!((database.model().await.list("key-0"), database.model().await.list("key-1")), (even, odd));

    let mut letters: Vec<TopicLetter> = Vec::new();
    let mut source = broker.source("replay", ["letters"], SeedEnvelope);
    read_to_end(&mut source, |record| letters.push(record.try_into().expect("a letter"))).await.expect("read");
    // In any order, some twice, and those of others.
    letters.reverse();
    letters.push(letters[0].clone());
    letters.push(TopicLetter::of("another", &rejected(&received(&log, "key-0", 99))));
    handler.mend();
    let projection = effects(database, handler.clone(), 1);
    let state = async || (database.model().await, database.count("projector_inbox").await);
    let before = state().await;
    let all = all(letters.clone());
    let dry = replay(&projection, &all.clone().dry_run()).await.expect("replay");
    assert_eq!(state().await, before, "a dry run changes nothing");
    let report = replay(&projection, &all).await.expect("replay");
    assert_eq!(report, dry, "and so it happens");
    assert_eq!(counts(&report), (5, 0, 0));
    assert_eq!(database.model().await.list("key-0"), [0, 6, 10, 2, 4, 8]);
    assert_eq!(database.model().await.list("key-1"), [1, 5, 9, 11, 3, 7]);
    let ids = |numbers: &[usize]| numbers.iter().map(|n| events[*n].event.id).collect::<Vec<_>>();
    let done: Vec<_> = report.keys.iter().map(|key| key.done_letters.clone()).collect();
    assert!(done.contains(&ids(&[2, 4, 8])) && done.contains(&ids(&[3, 7])), "{report:?}");

    let after = state().await;
    for again in [all.clone().dry_run(), all.clone()] {
        let report = replay(&projection, &again).await.expect("replay");
        assert_eq!((counts(&report), state().await == after), ((0, 5, 0), true), "the topic still has them");
    }
    let key = Series::of_received(&ReceivedEvent::from(events[3].clone()));
    for (which, count) in [(Letters::Key(key), 2), (Letters::Id(events[8].event.id), 1)] {
        let report = replay(&projection, &Replay::of(which).from_topic(letters.clone())).await.expect("replay");
        assert_eq!((counts(&report), report.keys.len()), ((0, count, 0), 1));
    }

    // What the documentation warns of.
    DB::age(&database.pool, events[8].event.id, 24).await;
    let removed = inbox(database, "effects").prune(std::time::Duration::from_hours(23), 10).await.expect("prune");
    assert_eq!(removed, 1);
    let report = replay(&projection, &all).await.expect("replay");
    assert_eq!((counts(&report), database.model().await.list("key-0").len()), ((1, 4, 0), 7), "a claim was forgotten");
}

async fn a_letter_that_fails_stops_its_key_and_no_other<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    for (at, trouble) in [Trouble::Reject, Trouble::Fail, Trouble::Panic, Trouble::Constraint].into_iter().enumerate() {
        let (log, base) = (Sequencer::default(), 10 * at as i64);
        let a: Vec<_> = (0..4).map(|n| received(&log, &format!("a-{at}"), base + n)).collect();
        let b = received(&log, &format!("b-{at}"), base + 4);
        let c = foreign(&format!("c-{at}"), base + 5);
        let handler = ReadModel::with(base + 2, trouble);
        let projection = effects(database, handler.clone(), 1);
        let mut letters: Vec<_> = a.iter().chain([&b]).map(letter).collect();
        let unordered = DeadLetter::rejected(&Partition::new("p"), c.clone(), None, "it is bad", 3);
        letters.push(TopicLetter::of("effects", &unordered));
        let all = all(letters);
        let dry = replay(&projection, &all.clone().dry_run()).await.expect("replay");
        assert!(database.model().await.list(&format!("a-{at}")).is_empty());
        let report = replay(&projection, &all).await.expect("replay");
        assert_eq!((counts(&report), &report), ((2 + 1 + 1, 0, 2), &dry), "{trouble:?}");
        let [of_a, ..] = &report.keys[..] else { panic!("{report:?}") };
        assert_eq!(of_a.done_letters, [a[0].event.id, a[1].event.id]);
        assert!(of_a.error.is_some(), "{of_a:?}");
        assert_eq!(database.model().await.list(&format!("a-{at}")), [base, base + 1]);
        handler.mend();
        let report = replay(&projection, &all).await.expect("replay");
        assert_eq!(counts(&report), (2, 4, 0));
        assert_eq!(database.model().await.list(&format!("a-{at}")), [base, base + 1, base + 2, base + 3]);
    }
}

/// Does not know the event of one number.
struct Ignorant(u64);

impl Decoder for Ignorant {
    fn decode(
        &self,
        key: Option<&Bytes>,
        payload: Option<&Bytes>,
        headers: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError> {
        let read = SeedEnvelope.decode(key, payload, headers)?;
        if number_of(&read.event) == Some(self.0) {
            return Err(CodecError::new(CodecErrorKind::Malformed, "never heard of it"));
        }
        Ok(read)
    }
}

async fn what_cannot_be_decoded_is_told<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let a: Vec<_> = (0..2).map(|n| received(&log, "a", n)).collect();
    let b: Vec<_> = (2..4).map(|n| received(&log, "b", n)).collect();
    let garbage = RawRecord {
        offset: 9,
        key: Some(Bytes::from_static(b"a")),
        payload: Some(Bytes::from_static(b"\xff")),
        headers: Vec::new(),
    };
    let garbage = TopicLetter::of("effects", &DeadLetter::undecodable(&Partition::new("p"), garbage, "bad bytes"));
    let letters: Vec<_> = a.iter().chain(&b).map(letter).chain([garbage.clone()]).collect();
    let projection = effects(database, ReadModel::default(), 1);
    let ignorant = all(letters.clone()).decoder(Arc::new(Ignorant(3)));
    let report = replay(&projection, &ignorant).await.expect("replay");
    let [unread, bad, of_a, of_b] = &report.keys[..] else { panic!("{report:?}") };
    assert_eq!((unread.letter, bad.letter), (Some(b[1].event.id), Some(garbage.id)));
    assert!(unread.error.as_ref().is_some_and(|why| why.contains("never heard of it")), "{unread:?}");
    assert!(bad.error.as_ref().is_some_and(|why| why.contains("cannot be decoded")), "{bad:?}");
    assert_eq!((of_a.done.applied, of_a.left), (2, 0), "what was never an event stops nothing");
    assert_eq!((of_b.done.applied, of_b.left), (0, 1), "where it stands in its key is not known");
    assert_eq!((database.model().await.list("a"), database.model().await.list("b")), (vec![0, 1], vec![]));

    let report = replay(&projection, &all(letters.clone())).await.expect("replay");
    assert_eq!(counts(&report), (2, 2, 1));
    assert_eq!(database.model().await.list("b"), [2, 3]);
    let mut mixed_up = letter(&a[0]);
    mixed_up.id = b[0].event.id;
    let report = replay(&projection, &all([mixed_up])).await.expect("replay");
    assert!(report.keys[0].error.as_ref().is_some_and(|why| why.contains("another event")), "{report:?}");
}

async fn a_database_that_refuses_ends_the_replay<DB: Bed>(_: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let bare = crate::sql::database::unmigrated::<DB>().await;
    let projection = effects(&bare, ReadModel::default(), 1);
    let one = all([letter(&received(&Sequencer::default(), "a", 1))]);
    for replayed in [one.clone().dry_run(), one] {
        let error = replay(&projection, &replayed).await.expect_err("no tables");
        assert_eq!(error.kind(), ProjectionErrorKind::NotMigrated, "{}", chain(&error));
    }
    let event = received(&Sequencer::default(), "a", 1);
    assert!(apply(&projection, &[event]).await.is_err());
    bare.tear_down().await;
}
