//! Letters that are kept in a topic.

use std::sync::Arc;

use outbox_core::{
    event::ReceivedEvent, memory::MemoryBroker, profile::SeedEnvelope, projection::DeadLetter, testing::Sequencer,
};
use outbox_projector::{
    dead_letters::{DeadLetters, TopicDeadLetters, TopicLetter, read_to_end},
    sql::{Handler, Letters, ProjectionName, Replay, ReplayReport, SqlProjection},
};

use super::{
    counts, key_of, list, rejected, step,
    undecodable::{Either, undecodable},
};
use crate::sql::{Database, ReadModel, database::TestDatabase, handler::Trouble, model::received, on_every_database};

on_every_database!(
    letters_of_a_topic_have_their_effect_in_order_and_once,
    where_a_letter_of_a_topic_fails_the_rest_of_its_key_stays,
    the_body_of_another_event_is_refused,
    a_letter_that_is_missing_or_not_open_is_told,
);

/// A topic of the letters of several projections.
struct Topic {
    broker: MemoryBroker,
    letters: TopicDeadLetters,
}

impl Topic {
    fn new() -> Self {
        let broker = MemoryBroker::default();
        let letters = TopicDeadLetters::new(Arc::new(broker.publisher()), "letters");
        Self { broker, letters }
    }

    /// As a projector does: the letters first, then the step.
    async fn step<DB: TestDatabase>(
        &self,
        projection: &SqlProjection<DB>,
        to: &str,
        events: &[ReceivedEvent],
        letters: &[DeadLetter],
    ) {
        self.letters.store(outbox_core::projection::Projection::name(projection), letters).await.expect("stored");
        step(projection, to, events, letters).await.expect("apply");
    }

    /// All that are there.
    async fn read(&self) -> Vec<TopicLetter> {
        let mut all = Vec::new();
        let mut source = self.broker.source("replay", ["letters"], SeedEnvelope);
        read_to_end(&mut source, |record| all.push(record.try_into().expect("a letter"))).await.expect("read");
        all
    }
}

async fn replay<DB: TestDatabase>(projection: &SqlProjection<DB>, replay: Replay) -> ReplayReport {
    projection.dead_letters().replay(&replay.decoder(Arc::new(Either))).await.expect("replay")
}

async fn letters_of_a_topic_have_their_effect_in_order_and_once<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (topic, log) = (Topic::new(), Sequencer::default());
    let a: Vec<_> = (0..6).map(|n| received(&log, "a", n)).collect();
    let b: Vec<_> = (6..8).map(|n| received(&log, "b", n)).collect();
    let projection = database.projection(ReadModel::default());
    let other = ProjectionName::parse("other").expect("name");
    let other = SqlProjection::builder(database.pool.clone(), other, ReadModel::default()).build();
    let letters = [rejected(&a[0]), undecodable(&a[1], 1), rejected(&a[2]), rejected(&b[0]), undecodable(&a[3], 3)];
    // After a crash letters are there twice.
    topic.letters.store("model", &letters[..3]).await.expect("stored");
    topic.step(&projection, "1", &[], &letters).await;
    topic.step(&projection, "2", &a[5..], &[rejected(&b[1]), rejected(&a[4])]).await;
    topic.step(&other, "1", &[], &[rejected(&a[0]), undecodable(&b[1], 7)]).await;
    let mut given = topic.read().await;
    assert_eq!(given.len(), 3 + 5 + 2 + 2);
    given.reverse();
    let all = Replay::of(Letters::All).from_topic(given);

    let state = async || {
        let counts = (database.count("projector_seen").await, database.count("projector_watermark").await);
        (database.model().await, list(&projection).await, list(&other).await, counts)
    };
    let before = state().await;
    let dry = replay(&projection, all.clone().dry_run()).await;
    assert_eq!(state().await, before, "a dry run changes nothing");
    let report = replay(&projection, all.clone()).await;
    assert_eq!(report, dry, "and so it happens");
    assert_eq!((counts(&report), report.totals().duplicates), ((7, 0), 0));
    assert_eq!(database.model().await.list("a"), [5, 0, 1, 2, 3, 4]);
    assert_eq!(database.model().await.list("b"), [6, 7]);
    assert_eq!((list(&projection).await, list(&other).await), (Vec::new(), before.2), "the other's are as they were");

    let model = database.model().await;
    for all in [all.clone().dry_run(), all] {
        let again = replay(&projection, all).await;
        assert_eq!((counts(&again), again.totals().duplicates), ((0, 0), 7));
        let of_each: Vec<_> = again.keys.iter().map(|key| (key.series.is_some(), key.done.duplicates)).collect();
        assert!(of_each == [(true, 5), (true, 2)] || of_each == [(true, 2), (true, 5)], "{again:?}");
    }
    assert_eq!(database.model().await, model);
}

async fn where_a_letter_of_a_topic_fails_the_rest_of_its_key_stays<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (topic, log) = (Topic::new(), Sequencer::default());
    let a: Vec<_> = (0..60).map(|n| received(&log, "a", n)).collect();
    let b = received(&log, "b", 60);
    let handler = ReadModel::with(55, Trouble::Reject);
    let projection = database.projection(handler.clone());
    let letters: Vec<_> = a.iter().chain([&b]).map(rejected).collect();
    topic.step(&projection, "1", &[], &letters).await;
    let all = Replay::of(Letters::All).from_topic(topic.read().await);
    let dry = replay(&projection, all.clone().dry_run()).await;
    let report = replay(&projection, all.clone()).await;
    assert_eq!((counts(&report), counts(&dry)), ((55 + 1, 5), (55 + 1, 5)));
    assert_eq!(database.model().await.list("a"), (0..55).collect::<Vec<_>>());
    assert_eq!(database.model().await.list("b"), [60], "other keys follow");
    let left = list(&projection).await;
    assert!(left[0].attempts == 4 && left[0].reason.contains("the script says so"), "{left:?}");
    assert!(left[1..].iter().all(|letter| letter.attempts == 3 && letter.reason == "it is bad"), "{left:?}");
    handler.mend();
    let report = replay(&projection, all).await;
    assert_eq!((counts(&report), report.totals().duplicates), ((5, 0), 56));
    assert_eq!(database.model().await.list("a"), (0..60).collect::<Vec<_>>());
}

async fn the_body_of_another_event_is_refused<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (topic, log) = (Topic::new(), Sequencer::default());
    let events: Vec<_> = (0..2).map(|n| received(&log, "a", n)).collect();
    let projection = database.projection(ReadModel::default());
    topic.step(&projection, "1", &events[1..], &[rejected(&events[0])]).await;
    topic.letters.store("model", &[rejected(&events[1])]).await.expect("stored");
    let mut other = topic.read().await.remove(1);
    other.id = events[0].event.id;
    let report = replay(&projection, Replay::of(Letters::All).from_topic([other])).await;
    assert_eq!((counts(&report), database.model().await.list("a")), ((0, 1), vec![1]));
    let left = list(&projection).await;
    assert!(left[0].attempts == 4 && left[0].reason.contains("another event"), "{left:?}");
}

async fn a_letter_that_is_missing_or_not_open_is_told<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (topic, log) = (Topic::new(), Sequencer::default());
    let events: Vec<_> = (0..4).map(|n| received(&log, "a", n)).collect();
    let projection = database.projection(ReadModel::default());
    let letters: Vec<_> = events.iter().map(rejected).collect();
    // The process died before the step.
    topic.letters.store("model", &letters).await.expect("stored");
    let given = topic.read().await;
    for which in [Letters::All, key_of(&events[0]), Letters::Id(events[0].event.id)] {
        let told = replay(&projection, Replay::of(which.clone()).from_topic(given.clone())).await;
        let expected = if let Letters::Id(_) = which { 1 } else { 4 };
        assert_eq!((counts(&told), told.totals().duplicates), ((0, 0), expected), "not open yet");
    }
    assert!(database.model().await.list("a").is_empty());

    step(&projection, "1", &[], &letters[..3]).await.expect("apply");
    let missing = given.iter().filter(|letter| letter.id != events[1].event.id).cloned();
    let report = replay(&projection, Replay::of(Letters::All).from_topic(missing)).await;
    assert_eq!((counts(&report), report.totals().duplicates), ((1, 2), 1));
    assert!(report.keys[0].error.as_ref().is_some_and(|why| why.contains("body is not kept here")), "{report:?}");
    let left = list(&projection).await;
    assert!(left[0].attempts == 3 && left[0].reason == "it is bad", "nothing was tried: {left:?}");
    let one = Replay::of(Letters::Id(events[2].event.id)).from_topic(given.clone());
    assert_eq!(counts(&replay(&projection, one).await), (1, 0), "whoever wants one alone gets it");
    assert_eq!(counts(&replay(&projection, Replay::of(Letters::All).from_topic(given)).await), (1, 0));
    assert_eq!(database.model().await.list("a"), [0, 2, 1]);
}
