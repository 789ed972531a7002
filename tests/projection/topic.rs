//! Topics, looked at with nothing of ours.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use outbox_kafka::{KafkaPublisher, TopicSpec};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
    metadata::MetadataPartition,
};
use test_services::unique;

use crate::PATIENCE;

/// A record as it stands in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Written {
    pub(crate) fn of(message: &impl Message) -> Self {
        let headers = message
            .headers()
            .map(|headers| headers.iter().map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect());
        Self {
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        std::str::from_utf8(value).ok()
    }
}

pub(crate) async fn create(brokers: &str, name: &str, partitions: i32) {
    let publisher = KafkaPublisher::builder(brokers).build().expect("publisher");
    let spec = TopicSpec::new(name, partitions, 1).with_setting("max.message.bytes", "2000000");
    publisher.ensure_topics(&[spec]).await.expect("topic");
}

/// The broker is shared, and many partitions make it slow.
pub(crate) async fn delete(brokers: &str, names: &[&str]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("admin client");
    let deleted = admin.delete_topics(names, &AdminOptions::new()).await.expect("an answer");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

/// Everything a topic holds now, each partition in order.
pub(crate) async fn read(brokers: &str, topic: &str) -> Vec<Written> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    let read = move || {
        let mut reader = Reader::open(&brokers, &topic);
        let ends = ends(&reader.consumer, &topic);
        let mut records = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while !reader.is_at(&ends) {
            assert!(Instant::now() < deadline, "the end of {topic} was not reached: {ends:?}");
            records.extend(reader.next().map(|(_, written)| written));
        }
        records
    };
    tokio::task::spawn_blocking(read).await.expect("a reader")
}

/// Waits until a group has committed everything that these partitions hold; `false`: it has not in time. Nothing of ours
/// is asked.
pub(crate) async fn until_committed(brokers: &str, group: &str, topic: &str) -> bool {
    let consumer = consumer(brokers, group);
    let (group, topic) = (group.to_owned(), topic.to_owned());
    let wait = move || {
        let ends = ends(&consumer, &topic);
        let mut list = TopicPartitionList::new();
        for partition in ends.keys() {
            list.add_partition(&topic, *partition);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let committed = consumer.committed_offsets(list.clone(), PATIENCE);
            let committed = committed.map(|list| {
                let offset = |e: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| e.offset().to_raw();
                list.elements().iter().map(|e| (e.partition(), offset(e).unwrap_or(0).max(0))).collect()
            });
            let committed: BTreeMap<i32, i64> = committed.unwrap_or_default();
            if committed == ends {
                return true;
            }
            if Instant::now() > deadline {
                println!("group {group} stands at {committed:?} of {ends:?}");
                return false;
            }
            // A group tells nobody when it commits.
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    tokio::task::spawn_blocking(wait).await.expect("a reader")
}

/// Reads all partitions from their beginnings, on and on.
pub(crate) struct Reader {
    consumer: BaseConsumer,
    topic: String,
}

impl Reader {
    pub(crate) fn open(brokers: &str, topic: &str) -> Self {
        let consumer = consumer(brokers, &unique("reader"));
        let mut list = TopicPartitionList::new();
        for partition in ends(&consumer, topic).into_keys() {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("partition");
        }
        consumer.assign(&list).expect("assign");
        Self { consumer, topic: topic.to_owned() }
    }

    /// The next record and its partition; `None`: none for a moment.
    pub(crate) fn next(&mut self) -> Option<(i32, Written)> {
        // A connection that breaks is mended by the client.
        let message = self.consumer.poll(Duration::from_millis(20))?.ok()?;
        Some((message.partition(), Written::of(&message)))
    }

    /// Whether it has read all that is there.
    pub(crate) fn is_at_the_end(&self) -> bool {
        self.is_at(&ends(&self.consumer, &self.topic))
    }

    fn is_at(&self, ends: &BTreeMap<i32, i64>) -> bool {
        let place = self.consumer.position().expect("position");
        let at =
            |partition| place.find_partition(&self.topic, partition)?.offset().to_raw().filter(|offset| *offset >= 0);
        ends.iter().all(|(partition, end)| at(*partition).unwrap_or(0) >= *end)
    }
}

fn consumer(brokers: &str, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "50")
        .create()
        .expect("a consumer")
}

/// Where each partition ends.
fn ends(consumer: &BaseConsumer, topic: &str) -> BTreeMap<i32, i64> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
    let partitions = metadata.topics()[0].partitions().iter().map(MetadataPartition::id);
    let end = |partition| consumer.fetch_watermarks(topic, partition, PATIENCE).expect("watermarks").1;
    partitions.map(|partition| (partition, end(partition))).collect()
}
