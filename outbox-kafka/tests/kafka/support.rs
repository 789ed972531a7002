//! Topics and groups of a test's own, messages, and a consumer that knows nothing of this crate.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use outbox_core::{
    event::Lane,
    publisher::{Delivery, LaneStream, Message, Outcome, PublishErrorKind, Publisher},
};
use outbox_kafka::{
    publisher::{KafkaPublisher, KafkaPublisherBuilder},
    topics::TopicSpec,
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};

/// How long a test waits for what has to happen. Long, because it only costs time when something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A future that has to finish.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(PATIENCE, future).await.ok();
    output.unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// A broker and a fresh topic.
pub(crate) struct Topic {
    pub(crate) servers: String,
    pub(crate) name: Arc<str>,
}

impl Topic {
    pub(crate) async fn new(partitions: i32) -> Self {
        Self::with(partitions, &[]).await
    }

    pub(crate) async fn with(partitions: i32, settings: &[(&str, &str)]) -> Self {
        let servers = test_services::kafka_bootstrap().await;
        let name = test_services::unique("outbox-kafka");
        let spec = settings
            .iter()
            .fold(TopicSpec::new(&name, partitions, 1), |spec, (name, value)| spec.with_setting(*name, *value));
        KafkaPublisher::builder(&servers).build().expect("settings").ensure_topics(&[spec]).await.expect("a topic");
        Self { servers, name: name.into() }
    }

    pub(crate) fn publisher(&self) -> KafkaPublisherBuilder {
        KafkaPublisher::builder(&self.servers)
    }

    pub(crate) fn message(&self, key: &str, n: usize) -> Message {
        message(&self.name, key, n)
    }

    /// Everything the topic holds now, each partition in order.
    pub(crate) async fn read(&self) -> Vec<Written> {
        let (servers, topic) = (self.servers.clone(), self.name.clone());
        tokio::task::spawn_blocking(move || read(&servers, &topic)).await.expect("a reader")
    }

    /// A key's messages as they were sent, in the order they were written.
    pub(crate) async fn messages(&self, key: &[u8]) -> Vec<Message> {
        let of_key = self.read().await.into_iter().filter(|record| record.key.as_deref() == Some(key));
        let message = |record: Written| Message {
            topic: self.name.clone(),
            key: record.key.unwrap_or_default().into(),
            payload: record.payload.map(Bytes::from),
            headers: record.headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        };
        of_key.map(message).collect()
    }

    /// The numbers that a key's messages carry, in the order they were written.
    pub(crate) async fn numbers(&self, key: &str) -> Vec<usize> {
        let written = self.read().await;
        written.iter().filter(|record| record.key.as_deref() == Some(key.as_bytes())).map(Written::number).collect()
    }
}

/// A record as a consumer that knows nothing of this crate sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) partition: i32,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Written {
    pub(crate) fn number(&self) -> usize {
        let text = std::str::from_utf8(self.payload.as_deref().expect("a body")).expect("text");
        text.trim_start_matches('x').parse().expect("a number")
    }
}

fn read(servers: &str, topic: &str) -> Vec<Written> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", test_services::unique("reader"))
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
    let mut list = TopicPartitionList::new();
    let (mut count, mut ends) = (0, BTreeMap::new());
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE).expect("watermarks");
        count += high - low;
        ends.insert(partition.id(), high);
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("offset");
    }
    consumer.assign(&list).expect("assign");
    let mut written = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while (written.len() as i64) < count {
        assert!(Instant::now() < deadline, "{} of {count} records in time", written.len());
        // On a busy machine connections break, which librdkafka mends.
        let Some(Ok(record)) = consumer.poll(Duration::from_secs(1)) else { continue };
        // Others may go on writing, and one partition comes before another.
        if record.offset() >= ends[&record.partition()] {
            continue;
        }
        let headers = record
            .headers()
            .map(|headers| headers.iter().map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect());
        written.push(Written {
            partition: record.partition(),
            key: record.key().map(<[u8]>::to_vec),
            payload: record.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        });
    }
    written
}

pub(crate) fn message(topic: &Arc<str>, key: &str, n: usize) -> Message {
    Message {
        topic: topic.clone(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        payload: Some(n.to_string().into()),
        headers: Vec::new(),
    }
}

/// The same message, made so long.
pub(crate) fn stuffed(message: Message, bytes: usize) -> Message {
    let number = message.payload.clone().expect("a body");
    let mut body = vec![b'x'; bytes - number.len()];
    body.extend_from_slice(&number);
    Message { payload: Some(body.into()), ..message }
}

pub(crate) fn lane(lane: u8) -> Lane {
    Lane::new(lane).expect("a lane")
}

pub(crate) async fn open(publisher: &KafkaPublisher) -> Box<dyn LaneStream> {
    publisher.open(lane(0)).await.expect("a stream")
}

/// Reserves and sends, without waiting for outcomes.
pub(crate) async fn send(stream: &mut dyn LaneStream, messages: Vec<Message>) -> Box<dyn Delivery> {
    let bytes = messages.iter().map(Message::bytes).sum();
    within("a permit", stream.reserve(messages.len(), bytes)).await.expect("reserve").send(messages)
}

/// All outcomes by index; fails when a message has two.
pub(crate) async fn outcomes(delivery: &mut dyn Delivery) -> BTreeMap<usize, Outcome> {
    let mut all = BTreeMap::new();
    loop {
        let some = within("outcomes", delivery.next()).await;
        if some.is_empty() {
            return all;
        }
        for (index, outcome) in some {
            assert!(all.insert(index, outcome).is_none(), "two outcomes of message {index}");
        }
    }
}

pub(crate) async fn all_delivered(delivery: &mut dyn Delivery) {
    let outcomes = outcomes(delivery).await;
    assert!(outcomes.values().all(|outcome| matches!(outcome, Outcome::Delivered)), "{outcomes:?}");
}

pub(crate) fn failure(outcome: &Outcome) -> Option<PublishErrorKind> {
    match outcome {
        Outcome::Failed(error) => Some(error.kind()),
        _ => None,
    }
}

/// The first time each number was written: what a consumer that skips duplicates sees.
pub(crate) fn first_deliveries(numbers: &[usize]) -> Vec<usize> {
    let mut seen = std::collections::HashSet::new();
    numbers.iter().copied().filter(|n| seen.insert(*n)).collect()
}
