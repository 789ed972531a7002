//! The topic, written by relays and read with nothing of ours: the wire format is what it says.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use outbox_core::event::Sequence;
use outbox_kafka::{KafkaPublisher, TopicSpec};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedMessage, Headers},
};
use test_services::{kafka_bootstrap, unique};

const PARTITIONS: i32 = 6;
/// What the topic takes at first: a batch of everything that can be on its way, but no message of a poison.
const SMALL: &str = "100000";
const LARGE: &str = "4000000";
/// A topic that brings nothing new for so long will not bring what is missing either.
const STALLED: Duration = Duration::from_secs(20);

pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) brokers: String,
}

impl Topic {
    pub(crate) async fn create() -> Self {
        let (name, brokers) = (unique("crash"), kafka_bootstrap().await);
        let publisher = KafkaPublisher::builder(&brokers).build().expect("publisher");
        let spec = TopicSpec::new(&name, PARTITIONS, 1).with_setting("max.message.bytes", SMALL);
        publisher.ensure_topics(&[spec]).await.expect("topic");
        Self { name, brokers }
    }

    /// Larger messages are taken from now on.
    pub(crate) async fn raise_limit(&self) {
        let config = AlterConfig::new(ResourceSpecifier::Topic(&self.name)).set("max.message.bytes", LARGE);
        let altered = self.admin().alter_configs([&config], &AdminOptions::new()).await.expect("an answer");
        assert!(altered.iter().all(Result::is_ok), "{altered:?}");
    }

    /// The broker is shared, and many partitions make it slow.
    pub(crate) async fn delete(self) {
        let deleted = self.admin().delete_topics(&[&self.name], &AdminOptions::new()).await.expect("an answer");
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.brokers).create().expect("admin client")
    }

    /// Reads until so many different events were seen, or nothing more comes.
    pub(crate) async fn read(&self, events: usize) -> Reading {
        let mut reading = Reading { consumer: self.consumer(), told: Vec::new(), seen: HashSet::new() };
        tokio::task::spawn_blocking(move || {
            reading.read_until(events);
            reading
        })
        .await
        .expect("reader")
    }

    fn consumer(&self) -> BaseConsumer {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", unique("reader"))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()
            .expect("consumer");
        let mut all = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            all.add_partition_offset(&self.name, partition, Offset::Beginning).expect("partition");
        }
        consumer.assign(&all).expect("assign");
        consumer
    }
}

/// What was read of the topic so far.
pub(crate) struct Reading {
    consumer: BaseConsumer,
    told: Vec<Told>,
    seen: HashSet<(i64, i64)>,
}

impl Reading {
    fn read_until(&mut self, events: usize) {
        let mut news = Instant::now();
        while self.seen.len() < events && news.elapsed() < STALLED {
            if self.poll() {
                news = Instant::now();
            }
        }
    }

    /// Reads what is left, when nobody writes any more.
    pub(crate) async fn rest(mut self) -> Vec<Told> {
        let rest = move || {
            let mut ends = HashMap::new();
            let place = self.consumer.position().expect("position");
            for element in place.elements() {
                let (topic, partition) = (element.topic(), element.partition());
                let (_, end) = self.consumer.fetch_watermarks(topic, partition, STALLED).expect("watermarks");
                ends.insert(partition, end);
            }
            let deadline = Instant::now() + STALLED;
            while !self.stands_at(&ends) {
                assert!(Instant::now() < deadline, "the end of the topic was not reached: {ends:?}");
                self.poll();
            }
            self.told
        };
        tokio::task::spawn_blocking(rest).await.expect("reader")
    }

    fn stands_at(&self, ends: &HashMap<i32, i64>) -> bool {
        let place = self.consumer.position().expect("position");
        let at = |partition: i32| {
            let element = place.elements().into_iter().find(|element| element.partition() == partition)?;
            element.offset().to_raw().filter(|offset| *offset >= 0)
        };
        ends.iter().all(|(partition, end)| at(*partition).unwrap_or(0) >= *end)
    }

    /// Whether a message came.
    fn poll(&mut self) -> bool {
        let message = match self.consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => Told::from(&message),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) | None => return false,
            Some(Err(error)) => panic!("reading the topic: {error}"),
        };
        self.seen.insert((message.aggregate, message.v));
        self.told.push(message);
        true
    }
}

/// What one message said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) aggregate: i64,
    pub(crate) v: i64,
    pub(crate) sequence: Sequence,
}

impl From<&BorrowedMessage<'_>> for Told {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let body: serde_json::Value = serde_json::from_slice(message.payload().expect("body")).expect("JSON");
        let aggregate = body["aggregate_id"].as_str().expect("aggregate_id");
        assert_eq!(message.key(), Some(aggregate.as_bytes()));
        let header = |name: &str| {
            let header = message.headers()?.iter().find(|header| header.key == name)?;
            std::str::from_utf8(header.value?).ok()
        };
        let sequence = header("outbox-sequence").and_then(|text| text.parse().ok()).and_then(Sequence::from_raw);
        Self {
            aggregate: aggregate.parse().expect("number"),
            v: body["payload"]["v"].as_i64().expect("v"),
            sequence: sequence.expect("sequence"),
        }
    }
}

/// A topic beside what was committed.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Events that never came.
    pub(crate) lost: usize,
    /// First deliveries behind a later event of their aggregate.
    pub(crate) inverted: usize,
    /// Messages that had been there before.
    pub(crate) repeated: Vec<Told>,
}

impl Verdict {
    /// `changes`: how often each aggregate was changed.
    pub(crate) fn on(told: &[Told], changes: &HashMap<i64, i64>) -> Self {
        let mut seen = HashSet::new();
        let mut last: HashMap<i64, i64> = HashMap::new();
        let mut verdict = Self { lost: 0, inverted: 0, repeated: Vec::new() };
        for told in told {
            assert!((1..=changes[&told.aggregate]).contains(&told.v), "nobody committed {told:?}");
            if !seen.insert((told.aggregate, told.v)) {
                verdict.repeated.push(*told);
                continue;
            }
            let last = last.entry(told.aggregate).or_default();
            verdict.inverted += usize::from(told.v < *last);
            *last = told.v.max(*last);
        }
        verdict.lost = changes.values().sum::<i64>() as usize - seen.len();
        verdict
    }
}
