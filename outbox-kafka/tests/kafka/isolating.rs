//! The isolating producer: what is refused there costs nobody else anything.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use outbox_core::{
    event::Lane,
    publisher::{LaneStream, Message, Outcome, PublishError, PublishErrorKind, Publisher, PublisherCapabilities},
    testing::publisher::PublisherHarness,
};
use outbox_kafka::publisher::KafkaPublisher;
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use crate::{
    limits::limit_to,
    support::{Topic, all_delivered, failure, lane, message, open, outcomes, send, stuffed},
};

outbox_core::publisher_suite!(conformance, AllIsolated::fresh_topic);

/// Isolated streams keep all the promises of a publisher, not only for the single messages they are made for.
struct AllIsolated {
    topic: Topic,
    publisher: Isolating,
}

struct Isolating(KafkaPublisher);

impl AllIsolated {
    async fn fresh_topic() -> Self {
        let topic = Topic::new(3).await;
        let publisher = topic.publisher().setting("message.max.bytes", "5000").build();
        Self { topic, publisher: Isolating(publisher.expect("settings")) }
    }
}

#[async_trait]
impl Publisher for Isolating {
    fn capabilities(&self) -> PublisherCapabilities {
        self.0.capabilities()
    }

    async fn open(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        self.0.open_isolated(lane).await
    }

    async fn shut_down(&self, grace: Duration) -> bool {
        self.0.shut_down(grace).await
    }
}

#[async_trait]
impl PublisherHarness for AllIsolated {
    type Publisher = Isolating;

    fn publisher(&self) -> &Isolating {
        &self.publisher
    }

    fn topic(&self) -> Arc<str> {
        self.topic.name.clone()
    }

    async fn written(&self, key: &Bytes, _last: &Bytes) -> Vec<Message> {
        self.topic.messages(key).await
    }

    /// At most one message of a stream is under way.
    fn capacity(&self) -> Option<usize> {
        None
    }

    fn poison(&self, key: &Bytes) -> Option<Message> {
        Some(Message { key: key.clone(), ..stuffed(self.topic.message("", 0), 10_000) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_refuses_alone_touches_neither_the_other_lanes_nor_the_main_producer() {
    let topic = Topic::new(1).await;
    let publisher = topic.publisher().build().expect("settings");
    let mut main = open(&publisher).await;
    all_delivered(send(main.as_mut(), vec![topic.message("main", 0)]).await.as_mut()).await;
    // The publisher knows the former limit.
    limit_to(&topic, 10_000).await;

    let isolated = (1..9_u8).map(|number| {
        let (publisher, topic) = (&publisher, &topic);
        async move {
            let mut stream = publisher.open_isolated(lane(number)).await.expect("a stream");
            for n in 0..20 {
                let plain = topic.message(&format!("lane-{number}"), n);
                let bad = number == 3 && n == 10;
                let message = if bad { stuffed(plain, 20_000) } else { plain };
                let fate = outcomes(send(stream.as_mut(), vec![message]).await.as_mut()).await.remove(&0);
                match fate.expect("an outcome") {
                    Outcome::Delivered => assert!(!bad),
                    Outcome::Failed(error) => {
                        assert!(bad, "lane {number}, message {n}: {error}");
                        assert_eq!(error.kind(), PublishErrorKind::Event, "{error}");
                        assert!(error.to_string().contains("max.message.bytes"), "{error}");
                        // The stream is broken for its key; a new one writes it again.
                        stream = publisher.open_isolated(lane(number)).await.expect("a stream");
                    }
                    Outcome::Aborted => panic!("lane {number}, message {n} aborted"),
                }
            }
        }
    });
    let traffic = async {
        for n in 1..100 {
            all_delivered(send(main.as_mut(), vec![topic.message("main", n)]).await.as_mut()).await;
        }
    };
    tokio::join!(join_all(isolated), traffic);
    assert_eq!(topic.numbers("main").await, (0..100).collect::<Vec<_>>(), "the main producer went on");
    for number in 1..9 {
        let expected: Vec<usize> = (0..20).filter(|n| number != 3 || *n != 10).collect();
        assert_eq!(topic.numbers(&format!("lane-{number}")).await, expected, "lane {number}");
    }
    assert!(publisher.shut_down(Duration::from_secs(20)).await);
}

#[tokio::test]
async fn messages_of_one_permit_are_written_one_by_one_and_stop_at_the_first_failure_of_a_key() {
    let topic = Topic::with(1, &[("max.message.bytes", "10000")]).await;
    let publisher = topic.publisher().build().expect("settings");
    let mut stream = publisher.open_isolated(lane(0)).await.expect("a stream");
    let of = |n| topic.message("bad", n);
    let batch = vec![of(0), stuffed(of(1), 20_000), of(2), topic.message("good", 3)];
    let mut first = send(stream.as_mut(), batch).await;
    let mut second = send(stream.as_mut(), vec![of(4), topic.message("good", 5)]).await;
    // Whichever outcomes one asks for first.
    let second = outcomes(second.as_mut()).await;
    let first = outcomes(first.as_mut()).await;
    assert!(matches!(first[&0], Outcome::Delivered));
    assert_eq!(failure(&first[&1]), Some(PublishErrorKind::Event), "{first:?}");
    assert!(matches!(first[&2], Outcome::Aborted) && matches!(second[&0], Outcome::Aborted), "{first:?} {second:?}");
    assert!(matches!(first[&3], Outcome::Delivered) && matches!(second[&1], Outcome::Delivered));
    assert_eq!(topic.numbers("bad").await, [0]);
    assert_eq!(topic.numbers("good").await, [3, 5]);
}

/// Whatever the broker answers, alone nobody is a suspect, and the next message is not affected.
#[tokio::test]
async fn alone_a_failure_is_the_messages_own_or_nobodys() {
    use PublishErrorKind::{Environment, Event};
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("mock", 1, 1).expect("a topic");
    let topic: Arc<str> = "mock".into();
    let publisher = KafkaPublisher::builder(cluster.bootstrap_servers()).build().expect("settings");
    for (error, expected) in [
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, Event),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD, Event),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION, Event),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, Environment),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS, Environment),
    ] {
        cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
        let mut stream = publisher.open_isolated(lane(0)).await.expect("a stream");
        let failed = outcomes(send(stream.as_mut(), vec![message(&topic, "one", 1)]).await.as_mut()).await;
        assert_eq!(failure(&failed[&0]), Some(expected), "{error:?}: {failed:?}");
        let mut stream = publisher.open_isolated(lane(0)).await.expect("a stream");
        all_delivered(send(stream.as_mut(), vec![message(&topic, "one", 2)]).await.as_mut()).await;
    }
    assert!(publisher.shut_down(Duration::from_secs(20)).await);
}
