//! Topics that do not exist.

use std::{sync::Arc, time::Duration};

use outbox_core::publisher::{Message, Outcome, PublishErrorKind, Publisher};
use outbox_kafka::{KafkaPublisher, TopicPolicy, TopicSpec};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};

use crate::support::{PATIENCE, Topic, all_delivered, message, open, outcomes, send, within};

/// The shared broker creates topics when it is asked for them; the publisher has to see to it that it is not.
#[tokio::test]
async fn a_topic_that_does_not_exist_stops_no_other_and_is_not_made() {
    let known = Topic::new(1).await;
    let unknown: Arc<str> = test_services::unique("outbox-kafka-unknown").into();
    let publisher = known.publisher().build().expect("settings");
    let batch: Vec<Message> =
        (0..20).map(|n| message(if n % 2 == 0 { &known.name } else { &unknown }, "one", n)).collect();
    for _ in 0..3 {
        let mut stream = open(&publisher).await;
        let fates = outcomes(send(stream.as_mut(), batch.clone()).await.as_mut()).await;
        let Outcome::Failed(error) = &fates[&1] else { panic!("{fates:?}") };
        assert_eq!(error.kind(), PublishErrorKind::Environment);
        let said = error.to_string();
        assert!(said.contains(&*unknown) && said.contains("does not exist"), "{said}");
        for n in 0..20 {
            assert_eq!(matches!(fates[&n], Outcome::Delivered), n % 2 == 0, "message {n}: {fates:?}");
        }
    }
    assert_eq!(partitions(&known.servers, &unknown).await, 0, "the topic was made");

    publisher.ensure_topics(&[TopicSpec::new(&*unknown, 2, 1)]).await.expect("a topic");
    within("the topic is found", async {
        loop {
            let fates = outcomes(send(open(&publisher).await.as_mut(), batch.clone()).await.as_mut()).await;
            if matches!(fates[&1], Outcome::Delivered) {
                return;
            }
            // It is looked up again after a second.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn topics_are_made_as_the_policy_says_when_they_are_first_used() {
    let servers = test_services::kafka_bootstrap().await;
    let policy = TopicPolicy::Create { partitions: 5, replication: 1 };
    let publisher = KafkaPublisher::builder(&servers).topics(policy).build().expect("settings");
    let topics = ["a", "b"].map(|name| Arc::<str>::from(test_services::unique(&format!("outbox-kafka-{name}"))));
    let batch = (0..100).map(|n| message(&topics[n % 2], "one", n)).collect();
    all_delivered(send(open(&publisher).await.as_mut(), batch).await.as_mut()).await;
    for topic in &topics {
        assert_eq!(partitions(&servers, topic).await, 5);
    }
    let refused = TopicPolicy::Create { partitions: 1, replication: 99 };
    let publisher = KafkaPublisher::builder(&servers).topics(refused).build().expect("settings");
    let never: Arc<str> = test_services::unique("outbox-kafka").into();
    let fates = outcomes(send(open(&publisher).await.as_mut(), vec![message(&never, "one", 0)]).await.as_mut()).await;
    let Outcome::Failed(error) = &fates[&0] else { panic!("{fates:?}") };
    assert_eq!(error.kind(), PublishErrorKind::Environment, "somebody has to act, and other topics go on: {error}");
    assert!(error.to_string().contains("refused to create"), "{error}");
}

#[tokio::test]
async fn the_broker_makes_topics_if_that_is_left_to_it() {
    let servers = test_services::kafka_bootstrap().await;
    let publisher = KafkaPublisher::builder(&servers).topics(TopicPolicy::Broker).build().expect("settings");
    let topic: Arc<str> = test_services::unique("outbox-kafka").into();
    let batch = (0..100).map(|n| message(&topic, "one", n)).collect();
    all_delivered(send(open(&publisher).await.as_mut(), batch).await.as_mut()).await;
    assert_eq!(Topic { servers, name: topic }.numbers("one").await, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_shut_down_gives_up_what_waits_for_its_topic() {
    // Nobody answers a lookup here, and reserve would say so: the room is reserved while the cluster is still there.
    let cluster = rdkafka::mocking::MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("mock", 1, 1).expect("a topic");
    let publisher = KafkaPublisher::builder(cluster.bootstrap_servers()).build().expect("settings");
    let mut stream = open(&publisher).await;
    let permit = stream.reserve(2, 20).await.expect("reserve");
    cluster.broker_down(-1).expect("down");
    let topic: Arc<str> = "mock".into();
    let mut delivery = permit.send((0..2).map(|n| message(&topic, "one", n)).collect());
    assert!(!within("the end", publisher.shut_down(Duration::from_millis(300))).await, "something waited");
    let fates = outcomes(delivery.as_mut()).await;
    assert!(matches!(&fates[&0], Outcome::Failed(e) if e.kind() == PublishErrorKind::Environment), "{fates:?}");
    assert!(matches!(fates[&1], Outcome::Aborted), "{fates:?}");
}

#[tokio::test]
async fn what_waits_for_its_topic_fails_with_the_publisher_that_is_dropped() {
    let cluster = rdkafka::mocking::MockCluster::new(1).expect("a mock cluster");
    let publisher = KafkaPublisher::builder(cluster.bootstrap_servers()).build().expect("settings");
    let mut stream = open(&publisher).await;
    let permit = stream.reserve(1, 10).await.expect("reserve");
    cluster.broker_down(-1).expect("down");
    let mut delivery = permit.send(vec![message(&"mock".into(), "one", 0)]);
    drop((stream, publisher));
    let fates = outcomes(delivery.as_mut()).await;
    assert!(matches!(&fates[&0], Outcome::Failed(e) if e.kind() == PublishErrorKind::Environment), "{fates:?}");
}

/// How many partitions a topic has; asking does not create it.
async fn partitions(servers: &str, topic: &str) -> usize {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", servers).set("allow.auto.create.topics", "false");
    let topic = topic.to_owned();
    let asking = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.create().expect("a client");
        let metadata = consumer.fetch_metadata(Some(&topic), PATIENCE).expect("metadata");
        metadata.topics().iter().map(|found| found.partitions().len()).sum()
    });
    asking.await.expect("an answer")
}
