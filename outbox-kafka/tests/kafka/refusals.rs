//! Errors that a broker answers with, one after the other: nothing lost, nothing overtaken.

use std::{collections::BTreeSet, sync::Arc};

use outbox_core::publisher::{Message, Outcome, PublishErrorKind, Publisher};
use outbox_kafka::publisher::KafkaPublisher;
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr as Error},
};

use crate::{
    lane::relay,
    limits::limit_to,
    support::{Topic, all_delivered, failure, first_deliveries, message, open, outcomes, send, stuffed},
};

const MESSAGES: usize = 400;

async fn survives(errors: &[Error]) {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("mock", 2, 1).expect("a topic");
    let name: Arc<str> = "mock".into();
    // Errors that librdkafka tries again after come in numbers here. It lingers so that one request is under way at a
    // time: unlike a broker, the mock looks at the sequence numbers of transactional producers only, and would write what
    // was on its way behind a refused request.
    let builder = KafkaPublisher::builder(cluster.bootstrap_servers())
        .setting("retry.backoff.ms", "1")
        .setting("linger.ms", "20");
    let publisher = builder.build().expect("settings");
    let lanes: Vec<Vec<Message>> =
        (0..3).map(|lane| (0..MESSAGES).map(|n| message(&name, &format!("lane-{lane}"), n)).collect()).collect();
    cluster.request_errors(RDKafkaApiKey::Produce, errors);
    let fared = tokio::join!(
        relay(&publisher, 0, &lanes[0], 20, 4),
        relay(&publisher, 1, &lanes[1], 20, 4),
        relay(&publisher, 2, &lanes[2], 20, 4)
    );
    for fared in [fared.0, fared.1, fared.2] {
        assert_eq!(fared.given_up, BTreeSet::new(), "{errors:?}");
    }
    publisher.shut_down(std::time::Duration::from_secs(20)).await;
    let topic = Topic { servers: cluster.bootstrap_servers(), name };
    for lane in 0..3 {
        let written = topic.numbers(&format!("lane-{lane}")).await;
        assert_eq!(first_deliveries(&written), (0..MESSAGES).collect::<Vec<_>>(), "lane {lane} under {errors:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_pass_are_tried_again() {
    let no_error = Error::RD_KAFKA_RESP_ERR_NO_ERROR;
    survives(&[
        Error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Error::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        no_error,
        Error::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        no_error,
        no_error,
        Error::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        Error::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        Error::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
    ])
    .await;
}

/// Each of them makes the producer's error a fatal one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_end_the_producer_are_survived() {
    let no_error = Error::RD_KAFKA_RESP_ERR_NO_ERROR;
    survives(&[
        no_error,
        Error::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
        no_error,
        no_error,
        Error::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS,
        no_error,
        Error::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        no_error,
        no_error,
        Error::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
        Error::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
    ])
    .await;
}

/// A broker that knows nothing yet of a producer's partition takes any sequence number as its first. So when the first
/// request of all is refused, what was sent behind it must not have been on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_behind_a_first_request_that_is_refused() {
    const ROUNDS: usize = 20;
    let topic = Topic::new(64).await;
    let publishers: Vec<KafkaPublisher> = (0..ROUNDS).map(|_| topic.publisher().build().expect("settings")).collect();
    for publisher in &publishers {
        // From now on it knows the topic and its limit, and has not written to the partition of the key below.
        all_delivered(send(open(publisher).await.as_mut(), vec![topic.message("first", 0)]).await.as_mut()).await;
    }
    limit_to(&topic, 10_000).await;
    for (round, publisher) in publishers.iter().enumerate() {
        let key = format!("key-{round}");
        let mut stream = open(publisher).await;
        let mut under_way = vec![send(stream.as_mut(), vec![stuffed(topic.message(&key, 0), 20_000)]).await];
        for n in 1..50 {
            under_way.push(send(stream.as_mut(), vec![topic.message(&key, n)]).await);
        }
        let mut fates = Vec::new();
        for mut delivery in under_way {
            fates.push(outcomes(delivery.as_mut()).await.remove(&0).expect("an outcome"));
        }
        assert!(failure(&fates[0]).is_some(), "{:?}", fates[0]);
        let written = topic.numbers(&key).await;
        assert_eq!(written, [0; 0], "round {round}: behind the refused one, which is not there");
    }
}

/// What waits for a first acknowledgement is no worse off for a message behind it that is refused at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_before_a_message_that_is_too_large_is_written() {
    let topic = Topic::with(3, &[("max.message.bytes", "10000")]).await;
    for round in 0..5 {
        let publisher = topic.publisher().build().expect("settings");
        let key = format!("key-{round}");
        // From now on the limit is known; the partition of the key need not be warm.
        all_delivered(send(open(&publisher).await.as_mut(), vec![topic.message("first", 0)]).await.as_mut()).await;
        let messages = (0..6).map(|n| {
            let message = topic.message(&key, n);
            if n == 3 { stuffed(message, 20_000) } else { message }
        });
        let mut stream = open(&publisher).await;
        let fates = outcomes(send(stream.as_mut(), messages.collect()).await.as_mut()).await;
        assert!((0..3).all(|n| matches!(fates[&n], Outcome::Delivered)), "round {round}: {fates:?}");
        assert_eq!(failure(&fates[&3]), Some(PublishErrorKind::Event), "{fates:?}");
        assert!((4..6).all(|n| matches!(fates[&n], Outcome::Aborted)), "round {round}: {fates:?}");
        assert_eq!(topic.numbers(&key).await, [0, 1, 2]);
    }
}
