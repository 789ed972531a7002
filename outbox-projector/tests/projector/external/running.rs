//! Both projections under a runner: straight from a log, and from a topic with everything twice, late, or refused.

use std::{sync::Arc, time::Duration};

use outbox_core::{
    event::NewEvent,
    log::ConsumerName,
    log_source::LogSource,
    memory::{MemoryBroker, MemoryLog, MemorySource},
    profile::{Profile, SeedEnvelope},
    publisher::Message,
    testing::Sequencer,
};
use outbox_projector::{
    dead_letters::TopicDeadLetters,
    external::{MemoryDocuments, PositionedProjection, StoreErrorKind, VersionedProjection},
};

use super::{change, faulty::Faulty, number, store};
use crate::support::{Running, append, counted, projector};

/// A topic, and what is written to it.
#[derive(Default)]
struct Topic {
    broker: MemoryBroker,
    log: Sequencer,
}

impl Topic {
    fn message(&self, event: NewEvent) -> Message {
        let mut message = Profile::default().message(&self.log.record(event)).expect("message");
        message.topic = "a".into();
        message
    }

    fn source(&self) -> MemorySource {
        self.broker.source("group", ["a"], SeedEnvelope)
    }
}

fn erased(key: &str) -> NewEvent {
    NewEvent::tombstone("Suite", key, "Erased").expect("event")
}

#[tokio::test]
async fn a_store_that_is_away_for_a_while_gets_everything_and_late_duplicates_revive_nothing() {
    let (topic, store) = (Topic::default(), Faulty::new());
    let history: Vec<_> = (0..10)
        .flat_map(|n| {
            let key = format!("key-{n}");
            let then = if n % 2 == 0 { erased(&key) } else { counted(&key, n + 100) };
            [topic.message(counted(&key, n)), topic.message(then)]
        })
        .collect();
    for kind in [StoreErrorKind::Unavailable; 3].into_iter().chain([StoreErrorKind::Refused]) {
        store.fail_next(kind);
    }
    let all = history.len();
    for message in history.iter().chain(&history).cloned() {
        topic.broker.write(message);
    }
    let projection = VersionedProjection::builder("documents", store.clone(), change).build();
    let mut running = Running::start(projector(topic.source(), Arc::new(projection)));
    let counted = |s: &outbox_projector::ProjectorStatus| s.totals().applied + s.totals().duplicates == 2 * all;
    let status = running.until("all counted", counted).await;
    assert!(status.totals().applied >= all, "{status:?}");
    running.stop().await.expect("run");
    for n in 0..10_u64 {
        let found = store.documents.get(&format!("Suite/key-{n}"));
        let found = found.and_then(|document| number(&document));
        assert_eq!(found, (n % 2 == 1).then_some(n + 100), "key-{n}");
    }
}

#[tokio::test]
async fn a_refused_document_becomes_a_dead_letter_and_the_rest_is_stored() {
    const LETTERS: &str = "dead-letters";
    let topic = Topic::default();
    let odd = |document: &[u8]| match number(document) {
        Some(13) => Err("thirteen".to_owned()),
        _ => Ok(()),
    };
    let documents = MemoryDocuments::default().with_rule(odd);
    let letters = TopicDeadLetters::new(Arc::new(topic.broker.publisher()), LETTERS);
    let messages: Vec<_> = [1, 13, 2].map(|n| topic.message(counted(&format!("key-{n}"), n))).into();
    for message in &messages {
        topic.broker.write(message.clone());
    }
    let projection = VersionedProjection::builder("documents", documents.clone(), change).build();
    let builder = projector(topic.source(), Arc::new(projection)).dead_letters(Arc::new(letters));
    let mut running = Running::start(builder);
    let status = running.until_applied(2).await;
    assert_eq!(status.totals().duplicates, 0, "what the refused step stored counts once");
    running.stop().await.expect("run");
    let letters = topic.broker.messages(LETTERS);
    assert_eq!(letters.iter().map(|letter| &letter.payload).collect::<Vec<_>>(), [&messages[1].payload]);
    assert_eq!((documents.get("Suite/key-13"), documents.len()), (None, 2));
}

#[tokio::test]
async fn a_store_with_positions_follows_a_log_and_goes_on_where_it_was() {
    let log = MemoryLog::default();
    let documents = store();
    let running = || {
        let consumer = ConsumerName::parse("documents").expect("name");
        let source = LogSource::builder(Arc::new(log.clone())).consumer(consumer).lease(Duration::from_secs(1)).build();
        let projection = PositionedProjection::new("documents", documents.clone(), change);
        Running::start(projector(source, Arc::new(projection)))
    };
    append(&log, &[counted("a", 1), counted("b", 2)]).await;
    let mut first = running();
    first.until_applied(2).await;
    first.crash().await;
    append(&log, &[counted("a", 3), erased("b")]).await;
    let mut second = running();
    let status = second.until_applied(2).await;
    assert_eq!(status.totals().duplicates, 0, "the position was kept");
    second.stop().await.expect("run");
    assert_eq!(documents.get("Suite/a").as_deref().and_then(number), Some(3));
    assert_eq!(documents.len(), 1);
}
