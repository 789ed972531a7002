//! What a broker holds, read with nothing of ours, and whether that is what was written.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    metadata::MetadataPartition,
};
use test_services::unique;

use crate::{running::PATIENCE, shop::Key};

/// What one message said.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) key: Key,
    pub(crate) v: i64,
    event_id: String,
}

/// Everything that these topics hold now, each partition in order.
pub(crate) async fn read_back(bootstrap: &str, topics: Vec<String>) -> Vec<Told> {
    let bootstrap = bootstrap.to_owned();
    tokio::task::spawn_blocking(move || read(&bootstrap, &topics)).await.expect("a reader")
}

fn read(bootstrap: &str, topics: &[String]) -> Vec<Told> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", unique("reader"))
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let (mut list, mut ends) = (TopicPartitionList::new(), BTreeMap::new());
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
        for partition in metadata.topics()[0].partitions().iter().map(MetadataPartition::id) {
            let (_, end) = consumer.fetch_watermarks(topic, partition, PATIENCE).expect("watermarks");
            if end > 0 {
                ends.insert((topic.clone(), partition), end);
                list.add_partition_offset(topic, partition, Offset::Beginning).expect("partition");
            }
        }
    }
    consumer.assign(&list).expect("assign");
    let deadline = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    while !ends.is_empty() {
        assert!(Instant::now() < deadline, "{} messages, and not yet {ends:?}", told.len());
        // A connection that breaks is mended by the client.
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) else { continue };
        let place = (message.topic().to_owned(), message.partition());
        if ends.get(&place).is_some_and(|end| message.offset() + 1 >= *end) {
            ends.remove(&place);
        }
        told.push(tell(&message));
    }
    told
}

fn tell(message: &impl Message) -> Told {
    let body: serde_json::Value = serde_json::from_slice(message.payload().expect("a body")).expect("JSON");
    let text = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("{name} in {body}")).to_owned();
    let (kind, id) = (text("aggregate_type"), text("aggregate_id"));
    assert!(message.topic().ends_with(&format!(".{kind}")), "{kind} in {}", message.topic());
    assert_eq!(message.key(), Some(id.as_bytes()));
    let v = body["payload"]["v"].as_i64().expect("v");
    Told { key: (kind, id.parse().expect("a number")), v, event_id: text("event_id") }
}

/// How the messages compare with what was written.
#[derive(Debug)]
pub(crate) struct Account {
    events: usize,
    /// Changes that were never told.
    pub(crate) lost: usize,
    /// Changes that were told for the first time behind a later one of their aggregate.
    pub(crate) inverted: usize,
    /// Messages that had been written already.
    pub(crate) duplicates: usize,
    /// The changes that were never told.
    pub(crate) missing: Vec<(Key, i64)>,
}

impl Account {
    pub(crate) fn of(told: &[Told], changes: &BTreeMap<Key, i64>) -> Self {
        let (mut seen, mut last) = (HashSet::new(), BTreeMap::<&Key, i64>::new());
        let (mut inverted, mut open) = (0, HashSet::new());
        for (key, count) in changes {
            open.extend((1..=*count).map(|v| (key, v)));
        }
        let events = open.len();
        for told in told.iter().filter(|told| seen.insert(told.event_id.as_str())) {
            assert!(open.remove(&(&told.key, told.v)), "never written, or under two ids: {told:?}");
            let last = last.entry(&told.key).or_default();
            inverted += usize::from(told.v < *last);
            *last = told.v.max(*last);
        }
        let mut missing: Vec<(Key, i64)> = open.into_iter().map(|(key, v)| (key.clone(), v)).collect();
        missing.sort();
        Self { events, lost: missing.len(), inverted, duplicates: told.len() - seen.len(), missing }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, lost, inverted, duplicates, .. } = self;
        write!(f, "{events} events, {lost} lost, {inverted} inverted, {duplicates} duplicates")
    }
}

#[test]
fn what_is_missing_doubled_or_in_the_wrong_place_is_counted() {
    let key = || ("orders".to_owned(), 1);
    let told = |v: i64| Told { key: key(), v, event_id: v.to_string() };
    let changes = [(key(), 5)].into();
    let account = Account::of(&[1, 2, 1, 4, 3].map(told), &changes);
    assert_eq!((account.lost, account.inverted, account.duplicates), (1, 1, 1));
    assert_eq!(account.missing, [(key(), 5)]);
    let account = Account::of(&[1, 2, 3, 2, 3, 4, 5].map(told), &changes);
    assert_eq!((account.lost, account.inverted, account.duplicates), (0, 0, 2));
}
