//! While no broker answers: clear errors, nothing lost.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use outbox_core::{
    publisher::{Outcome, PublishErrorKind, Publisher},
    source::{EventSource, SourceErrorKind},
};
use outbox_kafka::{publisher::KafkaPublisher, source::KafkaSource};
use rdkafka::{mocking::MockCluster, types::RDKafkaRespErr};

use crate::support::{PATIENCE, all_delivered, failure, message, open, outcomes, send, within};

/// A port that nobody listens on.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

#[tokio::test]
async fn a_broker_that_is_away_at_the_start_is_an_environment_error_and_later_used() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("mock", 3, 1).expect("a topic");
    cluster.broker_down(-1).expect("down");
    let publisher = KafkaPublisher::builder(cluster.bootstrap_servers()).build().expect("settings");
    let mut stream = open(&publisher).await;
    let refused = within("an answer", stream.reserve(1, 10)).await.err().expect("no broker");
    assert_eq!(refused.kind(), PublishErrorKind::Environment);
    assert!(refused.to_string().contains(&cluster.bootstrap_servers()), "{refused}");

    cluster.broker_up(-1).expect("up");
    let topic: Arc<str> = "mock".into();
    // librdkafka tries to connect again after a pause of its own, so that the first answer may still be an error.
    let permit = within("a permit", async {
        loop {
            if let Ok(permit) = stream.reserve(1, 10).await {
                return permit;
            }
        }
    })
    .await;
    all_delivered(permit.send(vec![message(&topic, "one", 1)]).as_mut()).await;
}

#[tokio::test]
async fn what_was_accepted_waits_for_the_broker() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("mock", 1, 1).expect("a topic");
    let topic: Arc<str> = "mock".into();
    let publisher = KafkaPublisher::builder(cluster.bootstrap_servers()).build().expect("settings");
    let mut stream = open(&publisher).await;
    all_delivered(send(stream.as_mut(), vec![message(&topic, "one", 0)]).await.as_mut()).await;

    let permit = stream.reserve(100, 1_000).await.expect("reserve");
    cluster.broker_down(-1).expect("down");
    let mut delivery = permit.send((0..100).map(|n| message(&topic, "one", n)).collect());
    // The loss is noticed: the next reservation says so instead of waiting.
    let refused = within("the loss", async {
        loop {
            if let Err(error) = stream.reserve(1, 10).await {
                return error;
            }
        }
    })
    .await;
    assert_eq!(refused.kind(), PublishErrorKind::Environment);
    assert!(delivery.next().now_or_never().is_none(), "no outcome while the broker is away");
    cluster.broker_up(-1).expect("up");
    all_delivered(delivery.as_mut()).await;
}

#[tokio::test]
async fn what_is_delivered_is_reported_while_the_rest_of_its_batch_waits() {
    let cluster = MockCluster::new(2).expect("a mock cluster");
    let [fine, stuck]: [Arc<str>; 2] = ["fine".into(), "stuck".into()];
    for (topic, leader) in [(&fine, 1), (&stuck, 2)] {
        cluster.create_topic(topic, 1, 2).expect("a topic");
        cluster.partition_leader(topic, 0, Some(leader)).expect("a leader");
    }
    let publisher = KafkaPublisher::builder(cluster.bootstrap_servers()).build().expect("settings");
    // Both topics are known from now on.
    let first = vec![message(&stuck, "one", 0), message(&fine, "one", 0)];
    all_delivered(send(open(&publisher).await.as_mut(), first).await.as_mut()).await;
    cluster.broker_down(2).expect("down");
    let batch = vec![message(&stuck, "one", 0), message(&fine, "one", 1), message(&fine, "one", 2)];
    let mut delivery = send(open(&publisher).await.as_mut(), batch).await;
    let mut reported = Vec::new();
    while reported.len() < 2 {
        for (index, outcome) in within("an outcome", delivery.next()).await {
            assert!(matches!(outcome, Outcome::Delivered), "{index}: {outcome:?}");
            reported.push(index);
        }
    }
    reported.sort_unstable();
    assert_eq!(reported, [1, 2]);
    cluster.broker_up(2).expect("up");
    assert!(matches!(within("the last one", delivery.next()).await[..], [(0, Outcome::Delivered)]));
}

#[tokio::test]
async fn a_shut_down_without_a_broker_gives_up_in_time() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("mock", 1, 1).expect("a topic");
    let topic: Arc<str> = "mock".into();
    let publisher = KafkaPublisher::builder(cluster.bootstrap_servers()).build().expect("settings");
    let mut stream = open(&publisher).await;
    all_delivered(send(stream.as_mut(), vec![message(&topic, "one", 0)]).await.as_mut()).await;
    let permit = stream.reserve(10, 100).await.expect("reserve");
    cluster.broker_down(-1).expect("down");
    let mut delivery = permit.send((0..10).map(|n| message(&topic, "one", n)).collect());
    assert!(!within("the end", publisher.shut_down(Duration::from_millis(300))).await, "nothing was reported in time");
    let given_up = outcomes(delivery.as_mut()).await;
    assert_eq!(given_up.len(), 10);
    assert_eq!(failure(&given_up[&0]), Some(PublishErrorKind::Environment), "{given_up:?}");
    assert!(given_up.values().all(|outcome| !matches!(outcome, Outcome::Delivered)), "{given_up:?}");
}

#[tokio::test]
async fn a_topic_that_does_not_exist_fails_until_somebody_makes_it() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("late", 1, 1).expect("a topic");
    cluster.topic_error("late", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).expect("an error");
    let publisher = KafkaPublisher::builder(cluster.bootstrap_servers())
        .setting("topic.metadata.propagation.max.ms", "1")
        .build()
        .expect("settings");
    let topic: Arc<str> = "late".into();
    for _ in 0..2 {
        let mut stream = open(&publisher).await;
        let batch = (0..3).map(|n| message(&topic, "one", n)).collect();
        let missing = outcomes(send(stream.as_mut(), batch).await.as_mut()).await;
        assert_eq!(failure(&missing[&0]), Some(PublishErrorKind::Environment), "{missing:?}");
        assert!(missing.values().all(|outcome| !matches!(outcome, Outcome::Delivered)), "{missing:?}");
    }
    cluster.topic_error("late", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).expect("no error");
    within("the topic", async {
        loop {
            let mut stream = open(&publisher).await;
            let tried = outcomes(send(stream.as_mut(), vec![message(&topic, "one", 0)]).await.as_mut()).await;
            if matches!(tried[&0], Outcome::Delivered) {
                return;
            }
            // librdkafka asks for missing topics once a second, and nothing tells when it has the answer.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_ping_tells_whether_there_is_a_broker() {
    let servers = test_services::kafka_bootstrap().await;
    KafkaPublisher::builder(&servers).build().expect("settings").ping(PATIENCE).await.expect("a broker");
    let nowhere = nowhere();
    let publisher = KafkaPublisher::builder(&nowhere).build().expect("settings");
    let error = publisher.ping(Duration::from_millis(300)).await.expect_err("no broker");
    assert_eq!(error.kind(), PublishErrorKind::Environment);
    assert!(error.to_string().contains(&nowhere), "{error}");
}

#[tokio::test]
async fn a_source_says_that_no_broker_answers() {
    let nowhere = nowhere();
    let mut source = KafkaSource::builder(&nowhere, "group", ["topic"]).build().expect("settings");
    let error = within("an answer", source.next()).await.expect_err("no broker");
    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
    assert!(error.to_string().contains(&nowhere), "{error}");
    within("close", source.close()).await.expect("close");
}
