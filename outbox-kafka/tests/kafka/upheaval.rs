//! Topics that are created again, lose records, or turn out to be those of another cluster.

use std::collections::{BTreeMap, BTreeSet};

use outbox_core::{
    publisher::Message,
    source::{Batch, EventSource, Partition, SourceErrorKind, SourceEvent, SourcePosition},
};
use outbox_kafka::source::{KafkaSource, KafkaSourceBuilder};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, Producer},
    types::RDKafkaErrorCode as Code,
};
use test_services::OwnKafka;

use crate::{
    reading::{assigned, batch, events, number, publish, source},
    support::{PATIENCE, Topic, within},
};

fn admin(servers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", servers).create().expect("an administrator")
}

/// Deletes the topic and creates it again, empty, under the same name.
pub(crate) async fn recreate(topic: &Topic, partitions: i32) {
    delete(topic).await;
    create(topic, partitions).await;
}

pub(crate) async fn delete(topic: &Topic) {
    let deleted = admin(&topic.servers).delete_topics(&[&topic.name], &AdminOptions::new()).await.expect("an answer");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

pub(crate) async fn create(topic: &Topic, partitions: i32) {
    let admin = admin(&topic.servers);
    let new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(1));
    within("the topic is created again", async {
        loop {
            match admin.create_topics([&new], &AdminOptions::new()).await.expect("an answer").remove(0) {
                Ok(_) => return,
                // It is still being deleted, and nothing signals the end of that.
                Err((_, Code::TopicAlreadyExists)) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                Err((_, other)) => panic!("{other}"),
            }
        }
    })
    .await;
}

/// Removes every record that is there, as retention does.
pub(crate) async fn expire(topic: &Topic, partitions: i32) {
    let mut all = TopicPartitionList::new();
    for number in 0..partitions {
        all.add_partition_offset(&topic.name, number, Offset::End).expect("an offset");
    }
    let removed = admin(&topic.servers).delete_records(&all, &AdminOptions::new()).await.expect("an answer");
    assert!(removed.elements().iter().all(|partition| partition.error().is_ok()), "{removed:?}");
}

/// The id of an event that no test writes.
const SOMEBODY: &str = "01990000-0000-7000-8000-000000000000";

fn group() -> String {
    test_services::unique("group")
}

/// Messages to one partition of two.
async fn publish_to(topic: &Topic, partition: i32, numbers: std::ops::Range<usize>) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &topic.servers).create().expect("a producer");
    for (_, Message { key, payload, .. }) in events(topic, numbers) {
        let payload = payload.expect("a body");
        let record = BaseRecord::to(&topic.name).partition(partition).key(&key[..]).payload(&payload[..]);
        producer.send(record).expect("room");
    }
    tokio::task::spawn_blocking(move || producer.flush(PATIENCE)).await.expect("a flush").expect("written");
}

/// Reads until these numbers have come, starting what is assigned from nowhere; where each partition is then.
async fn read(source: &mut KafkaSource, count: usize) -> BTreeMap<Partition, SourcePosition> {
    let mut positions = BTreeMap::new();
    let mut seen = 0;
    while seen < count {
        let Batch { partition, records, position } = batch(source, &positions).await;
        seen += records.len();
        positions.insert(partition, position);
    }
    positions
}

/// The partitions that have to be started anew, in which nothing comes.
async fn started_anew(source: &mut KafkaSource) -> Vec<Partition> {
    within("a new assignment", async {
        loop {
            match source.next().await.expect("next") {
                SourceEvent::Assigned(partitions) if !partitions.is_empty() => return partitions,
                SourceEvent::Batch(batch) => panic!("delivered in silence: {batch:?}"),
                _ => {}
            }
        }
    })
    .await
}

#[tokio::test]
async fn retention_that_passes_a_reader_is_told_and_other_partitions_go_on() {
    let topic = Topic::new(2).await;
    publish_to(&topic, 0, 0..5).await;
    publish_to(&topic, 1, 5..10).await;
    let mut source = source(&topic, &group()).build().expect("settings");
    let positions = read(&mut source, 10).await;
    let slow = positions.keys().find(|p| p.as_str().ends_with("/0")).expect("partition 0").clone();
    source.pause(&slow).await.expect("pause");
    publish_to(&topic, 0, 10..15).await;
    let mut one = TopicPartitionList::new();
    one.add_partition_offset(&topic.name, 0, Offset::End).expect("an offset");
    admin(&topic.servers).delete_records(&one, &AdminOptions::new()).await.expect("removed");
    source.resume(&slow).await.expect("resume");

    for partition in started_anew(&mut source).await {
        let started = source.start(&partition, positions.get(&partition)).await;
        if partition == slow {
            assert_eq!(started.expect_err("five are gone").kind(), SourceErrorKind::Expired);
            source.rewind(&partition).await.expect("rewind");
        } else {
            started.expect("nothing happened to it");
        }
    }
    publish_to(&topic, 0, 20..22).await;
    publish_to(&topic, 1, 22..24).await;
    let mut came = BTreeSet::new();
    while came.len() < 4 {
        came.extend(batch(&mut source, &positions).await.records.iter().map(number));
    }
    assert_eq!(came, (20..24).collect());
}

#[tokio::test]
async fn a_topic_that_is_gone_for_a_while_is_not_read_on_in_its_middle() {
    let topic = Topic::new(1).await;
    publish(&topic, events(&topic, 0..5).into_iter().map(|(_, m)| m).collect()).await;
    // How soon it learns that the topic is back.
    let eager = source(&topic, &group()).setting("topic.metadata.refresh.interval.ms", "500");
    let mut source = eager.build().expect("settings");
    let positions = read(&mut source, 5).await;
    delete(&topic).await;
    let end = within("its end", source.next()).await.expect("next");
    assert!(matches!(end, SourceEvent::Revoked(_)), "{end:?}");
    create(&topic, 1).await;
    publish(&topic, events(&topic, 10..20).into_iter().map(|(_, m)| m).collect()).await;
    let partition = started_anew(&mut source).await.remove(0);
    let refused = source.start(&partition, positions.get(&partition)).await.expect_err("other records");
    assert_eq!(refused.kind(), SourceErrorKind::Recreated, "{refused}");
}

#[tokio::test]
async fn a_copy_of_the_cluster_with_other_records_is_told() {
    let (topic, other) = (Topic::new(1).await, OwnKafka::create(&[]).await);
    publish(&topic, events(&topic, 0..5).into_iter().map(|(_, m)| m).collect()).await;
    let group = group();
    let mut here = source(&topic, &group).build().expect("settings");
    let positions = read(&mut here, 5).await;
    within("close", here.close()).await.expect("close");

    // The same id, the same topic, as after a cluster was built anew from the same script.
    let there = Topic { servers: other.bootstrap(), name: topic.name.clone() };
    create(&there, 1).await;
    publish(&there, events(&there, 10..20).into_iter().map(|(_, m)| m).collect()).await;
    let mut source = source(&there, &group).build().expect("settings");
    let partition = assigned(&mut source).await.remove(0);
    let position = positions.get(&partition).expect("this test needs two clusters of one id");
    let refused = source.start(&partition, Some(position)).await.expect_err("other records");
    assert_eq!(refused.kind(), SourceErrorKind::Recreated, "{refused}");
}

#[tokio::test]
async fn another_cluster_has_other_partitions() {
    let topic = Topic::new(1).await;
    let other = MockCluster::new(1).expect("a cluster");
    other.create_topic(&topic.name, 1, 1).expect("a topic");
    let there = Topic { servers: other.bootstrap_servers(), name: topic.name.clone() };
    let name = async |topic: &Topic| {
        let mut source = source(topic, &group()).build().expect("settings");
        assigned(&mut source).await.remove(0)
    };
    assert_ne!(name(&topic).await, name(&there).await, "a position kept for one is not found for the other");
}

/// A record that is gone says that the topic is another one, unless the topic is compacted.
#[tokio::test]
async fn only_a_compacted_topic_may_have_lost_the_last_record() {
    for (policy, accepted) in [("delete", false), ("compact", true)] {
        let topic = Topic::with(1, &[("cleanup.policy", policy)]).await;
        let servers = topic.servers.clone();
        let name = topic.name.clone();
        // The end of a transaction takes an offset, and no consumer ever sees a record there.
        tokio::task::spawn_blocking(move || {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", servers).set("transactional.id", test_services::unique("tx"));
            let producer: BaseProducer = config.create().expect("a producer");
            producer.init_transactions(PATIENCE).expect("transactions");
            producer.begin_transaction().expect("begin");
            producer.send(BaseRecord::to(&name).key("k").payload("p")).expect("room");
            producer.commit_transaction(PATIENCE).expect("commit");
        })
        .await
        .expect("a transaction");
        let mut source = source(&topic, &group()).build().expect("settings");
        let partition = assigned(&mut source).await.remove(0);
        let behind = SourcePosition::from_text(format!("2:{SOMEBODY}"));
        match source.start(&partition, Some(&behind)).await {
            Ok(()) => assert!(accepted, "{policy}"),
            Err(error) => assert!(!accepted && error.kind() == SourceErrorKind::Recreated, "{policy}: {error}"),
        }
    }
}

/// What the group committed is checked as well, also when the broker kept it.
#[tokio::test]
async fn a_commit_of_another_topic_is_told() {
    let topic = Topic::new(1).await;
    publish(&topic, events(&topic, 0..5).into_iter().map(|(_, m)| m).collect()).await;
    let group = group();
    let open = || -> KafkaSourceBuilder { source(&topic, &group) };
    let mut first = open().build().expect("settings");
    let (partition, position) = read(&mut first, 5).await.pop_first().expect("one partition");
    assert!(position.as_text().starts_with("5:"), "{position:?}");
    let foreign = SourcePosition::from_text(format!("5:{SOMEBODY}"));
    first.commit(&partition, &foreign).await.expect("commit");
    within("close", first.close()).await.expect("close");
    let mut second = open().build().expect("settings");
    let partition = assigned(&mut second).await.remove(0);
    let refused = second.start(&partition, None).await.expect_err("another record was committed");
    assert_eq!(refused.kind(), SourceErrorKind::Recreated, "{refused}");
    assert!(refused.to_string().contains("created again"), "{refused}");
}
