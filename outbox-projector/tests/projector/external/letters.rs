//! Dead letters of projections into stores of documents, replayed.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use outbox_core::{
    error::BoxError,
    event::{NewEvent, ReceivedEvent},
    memory::{MemoryBroker, MemoryLog},
    profile::{Profile, SeedEnvelope},
    projection::{Projection, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
    testing::{Sequencer, number_of},
};
use outbox_projector::{
    dead_letters::{Letters, Replay, ReplayReport, Replayable, TopicDeadLetters, TopicLetter, read_to_end, replay},
    external::{
        Commit, CommitError, MemoryDocuments, PositionedProjection, PositionedStore, StoreError, StoreErrorKind,
        VersionedProjection,
    },
};

use super::{change, faulty::Faulty, number};
use crate::support::{Running, append, counted, projector, rejected};

fn letter(received: &ReceivedEvent) -> TopicLetter {
    TopicLetter::of("test", &rejected(received))
}

fn all<'e>(events: impl IntoIterator<Item = &'e ReceivedEvent>) -> Replay {
    Replay::of(Letters::All).from_topic(events.into_iter().map(letter))
}

/// Applied, duplicates and left.
fn counts(report: &ReplayReport) -> (usize, usize, usize) {
    (report.totals().applied, report.totals().duplicates, report.left())
}

fn number_at(documents: &MemoryDocuments, key: &str) -> Option<u64> {
    number(&documents.get(&format!("Suite/{key}"))?)
}

/// Takes no odd numbers until it is told to.
fn odd_store() -> (MemoryDocuments, Arc<AtomicBool>) {
    let takes_all = Arc::new(AtomicBool::new(false));
    let rule = takes_all.clone();
    let store = MemoryDocuments::default().with_rule(move |document| match number(document) {
        Some(n) if n % 2 == 1 && !rule.load(Ordering::Relaxed) => Err(format!("{n} is odd")),
        _ => Ok(()),
    });
    (store, takes_all)
}

async fn read(broker: &MemoryBroker) -> Vec<TopicLetter> {
    let mut letters = Vec::new();
    let mut source = broker.source("replay", ["letters"], SeedEnvelope);
    read_to_end(&mut source, |record| letters.push(record.try_into().expect("a letter"))).await.expect("read");
    letters
}

#[tokio::test]
async fn letters_of_a_versioned_projection_are_written_or_stale() {
    let (broker, log) = (MemoryBroker::default(), Sequencer::default());
    let write = |events: &[(&str, i64)]| {
        for (key, n) in events {
            broker.write(Profile::default().message(&log.record(counted(key, *n))).expect("message"));
        }
    };
    let (documents, takes_all) = odd_store();
    let projection = Arc::new(VersionedProjection::builder("test", documents.clone(), change).build());
    let topic = Arc::new(TopicDeadLetters::new(Arc::new(broker.publisher()), "letters"));
    let source = broker.source("group", ["suite-events"], SeedEnvelope);
    let mut running = Running::start(projector(source, projection.clone()).dead_letters(topic));
    // In steps of their own, since of several changes of a document in a step only the newest is written. In the end `b`
    // and `d` have something newer than their letters; of `c` two letters are the newest.
    write(&[("a", 1), ("b", 3), ("c", 2), ("d", 5)]);
    running.until_applied(1).await;
    write(&[("b", 4), ("c", 5)]);
    running.until_applied(2).await;
    write(&[("c", 7), ("d", 8)]);
    running.until_applied(3).await;
    running.stop().await.expect("run");
    let letters = read(&broker).await;
    assert_eq!(letters.len(), 5);
    let all = Replay::of(Letters::All).from_topic(letters);

    let report = replay(&*projection, &all).await.expect("replay");
    assert_eq!(counts(&report), (0, 0, 5), "nothing was mended: each key stops at its first letter");
    assert!(report.keys.iter().all(|key| key.error.as_ref().is_some_and(|why| why.contains("is odd"))), "{report:?}");
    takes_all.store(true, Ordering::Relaxed);
    let dry = replay(&*projection, &all.clone().dry_run()).await.expect("replay");
    assert_eq!(counts(&dry), (5, 0, 0), "the store is not asked what it has");
    assert_eq!((number_at(&documents, "a"), number_at(&documents, "c")), (None, Some(2)));
    let report = replay(&*projection, &all).await.expect("replay");
    assert_eq!(counts(&report), (3, 2, 0), "the newer states of b and d stay");
    let state = ["a", "b", "c", "d"].map(|key| number_at(&documents, key));
    assert_eq!(state, [Some(1), Some(4), Some(7), Some(8)]);
    assert_eq!(counts(&replay(&*projection, &all).await.expect("replay")), (0, 5, 0));
    assert_eq!(["a", "b", "c", "d"].map(|key| number_at(&documents, key)), state);
}

#[tokio::test]
async fn a_dry_run_asks_no_store_and_finds_what_is_no_change() {
    let (log, store) = (Sequencer::default(), Faulty::new());
    let fails = |received: &ReceivedEvent| match (received.event.event_type.as_str(), number_of(&received.event)) {
        ("Counted", Some(1)) => Err(BoxError::from("no ones")),
        ("Counted", Some(2)) => panic!("two is more than I can bear"),
        _ => change(received),
    };
    let projection = VersionedProjection::builder("test", store.clone(), fails).build();
    let unheard = log.receive(NewEvent::tombstone("Suite", "d", "Unheard").expect("event"));
    let events: Vec<_> = [("a", 0), ("a", 1), ("a", 3), ("b", 2), ("c", 4)]
        .map(|(key, n)| log.receive(counted(key, n)))
        .into_iter()
        .chain([unheard])
        .collect();
    let dry = replay(&projection, &all(&events).dry_run()).await.expect("replay");
    assert_eq!((counts(&dry), dry.totals().ignored), ((2, 0, 3), 1));
    let errors: Vec<_> = dry.keys.iter().filter_map(|key| key.error.clone()).collect();
    assert!(errors[0].contains("no ones") && errors[1].contains("two is more than I can bear"), "{errors:?}");
    assert!(store.requests().is_empty() && store.documents.is_empty());
    let report = replay(&projection, &all(&events)).await.expect("replay");
    assert_eq!(report, dry, "and so it happens");
    assert_eq!(store.requests(), [["Suite/a"], ["Suite/c"]], "one after another, and nothing behind what failed");
}

#[tokio::test]
async fn a_store_that_is_away_ends_the_replay_and_what_was_done_is_known() {
    let (log, store) = (Sequencer::default(), Faulty::new());
    let projection = VersionedProjection::builder("test", store.clone(), change).build();
    let events: Vec<_> = (0..3).map(|n| log.receive(counted(&format!("key-{n}"), n))).collect();
    store.fail_next(StoreErrorKind::Refused);
    let error = replay(&projection, &all(&events)).await.expect_err("refused");
    assert_eq!((error.kind(), store.requests().len()), (ProjectionErrorKind::Unavailable, 1), "{error}");
    assert_eq!(counts(&replay(&projection, &all(&events[..1])).await.expect("replay")), (1, 0, 0));
    assert_eq!(counts(&replay(&projection, &all(&events)).await.expect("replay")), (2, 1, 0));
}

/// Straight from the log, so the letters' bodies are as [`RawPayload`](outbox_core::profile::RawPayload) writes them.
#[tokio::test]
async fn letters_of_a_positioned_projection_leave_its_position() {
    let (log, broker) = (MemoryLog::default(), MemoryBroker::default());
    let (documents, takes_all) = odd_store();
    let projection = Arc::new(PositionedProjection::new("test", documents.clone(), change));
    let topic = Arc::new(TopicDeadLetters::new(Arc::new(broker.publisher()), "letters"));
    let name = outbox_core::log::ConsumerName::parse("test").expect("name");
    let source = outbox_core::log_source::LogSource::builder(Arc::new(log.clone())).consumer(name).build();
    let mut running =
        Running::start(projector(source, projection.clone()).dead_letters(topic.clone()).attempts(NonZeroU32::MIN));
    // In steps of their own, since of several changes of a document in a step only the newest is written.
    append(&log, &[counted("a", 1), counted("b", 3), counted("c", 6)]).await;
    running.until_applied(1).await;
    append(&log, &[counted("a", 2), counted("b", 5)]).await;
    let status = running.until_applied(2).await;
    running.stop().await.expect("run");
    assert_eq!(status.partitions.len(), 1, "{status:?}");
    let letters = read(&broker).await;
    assert_eq!(letters.len(), 3);
    let partition = letters[0].partition().expect("a partition");
    let stood = projection.position(&partition).await.expect("position").expect("it was there");

    takes_all.store(true, Ordering::Relaxed);
    let all = Replay::of(Letters::All).from_topic(letters);
    let dry = replay(&*projection, &all.clone().dry_run()).await.expect("replay");
    assert_eq!((counts(&dry), number_at(&documents, "b")), ((3, 0, 0), None));
    assert_eq!(counts(&replay(&*projection, &all).await.expect("replay")), (2, 1, 0), "the newer state of a stays");
    assert_eq!(["a", "b", "c"].map(|key| number_at(&documents, key)), [Some(2), Some(5), Some(6)]);
    assert_eq!(projection.position(&partition).await.expect("position"), Some(stood));
    assert_eq!(counts(&replay(&*projection, &all).await.expect("replay")), (0, 3, 0));
}

#[tokio::test]
async fn a_partition_that_the_store_has_not_read_is_not_begun_by_a_letter() {
    let log = Sequencer::default();
    let documents = MemoryDocuments::default();
    let projection = PositionedProjection::new("test", documents.clone(), change);
    let event = log.receive(counted("a", 1));
    let mut nowhere = letter(&event);
    nowhere.place = "nobody knows".to_owned();
    for (letter, why) in [(letter(&event), "has not read p yet"), (nowhere, "names no partition")] {
        let report = replay(&projection, &Replay::of(Letters::All).from_topic([letter])).await.expect("replay");
        assert_eq!(counts(&report), (0, 0, 1));
        assert!(report.keys[0].error.as_ref().is_some_and(|error| error.contains(why)), "{report:?}");
    }
    assert!(documents.is_empty());
    assert_eq!(projection.position(&Partition::new("p")).await.expect("position"), None);
}

/// Somebody else commits between the look at the position and the first commit.
struct Raced(MemoryDocuments, AtomicBool);

#[async_trait]
impl PositionedStore for Raced {
    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, StoreError> {
        PositionedStore::position(&self.0, partition).await
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<bool>, CommitError> {
        if self.1.swap(false, Ordering::Relaxed) {
            let to = SourcePosition::from_text("2");
            let theirs = Commit { to, writes: Vec::new(), ..commit.clone() };
            self.0.commit(theirs).await?;
        }
        self.0.commit(commit).await
    }
}

#[tokio::test]
async fn a_projector_that_commits_meanwhile_keeps_its_position() {
    let log = Sequencer::default();
    let store = Raced(MemoryDocuments::default(), AtomicBool::new(false));
    let projection = PositionedProjection::new("test", store, change);
    let (partition, one) = (Partition::new("p"), SourcePosition::from_text("1"));
    projection.apply(Step::new(&partition, None, &one, &[])).await.expect("apply");
    projection.store().1.store(true, Ordering::Relaxed);
    let event = log.receive(counted("a", 1));
    assert_eq!(counts(&replay(&projection, &all([&event])).await.expect("replay")), (1, 0, 0));
    assert_eq!(number_at(&projection.store().0, "a"), Some(1));
    let stands = projection.position(&partition).await.expect("position");
    assert_eq!(stands.as_ref().map(SourcePosition::as_text), Some("2"));
}

/// A projection may be known as no more than one that can be replayed into.
#[tokio::test]
async fn any_projection_that_can_be_replayed_into_will_do() {
    let projection: Box<dyn Replayable> =
        Box::new(VersionedProjection::builder("test", MemoryDocuments::default(), change).build());
    let none = replay(&*projection, &Replay::of(Letters::All)).await.expect("replay");
    assert_eq!(none, ReplayReport::default());
}
