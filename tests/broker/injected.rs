use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{
    event::Lane,
    publisher::{LaneStream, PublishError, Publisher, PublisherCapabilities},
};
use outbox_kafka::KafkaPublisher;
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey as Api, RDKafkaRespErr as Error},
};

use crate::{
    running::{Running, persistence},
    shop::Shop,
};

/// What a broker may answer to a batch though no event of it is at fault.
const ANSWERS: &[Error] = &[
    // Passing: librdkafka tries again by itself.
    Error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
    Error::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    Error::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
    Error::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
    Error::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
    Error::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
    Error::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
    Error::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
    // Of the idempotent producer's own state.
    Error::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
    Error::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
    // The producer is of no use any more.
    Error::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
    Error::RD_KAFKA_RESP_ERR_PRODUCER_FENCED,
    Error::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
    Error::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
    Error::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS,
    Error::RD_KAFKA_RESP_ERR_UNKNOWN,
];

/// Answers to a producer that asks for its id.
const ANSWERS_TO_A_NEW_PRODUCER: &[Error] = &[
    Error::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
    Error::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
    Error::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
];

/// One aggregate each.
const KINDS: &[&str] = &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

/// librdkafka's own mock of a cluster answers as told: a real broker cannot be made to. It keeps what it accepts, and
/// that is read back.
///
/// It checks the sequences of transactional producers only. Behind a request that it refused it takes the next one of the
/// partition, which no broker does, and from which librdkafka concludes that the refused one was written after all. So
/// here each aggregate has a partition to itself and one event under way at a time; what is behind a broken request in
/// its partition is the matter of the tests with a real broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_broker_answers() {
    let cluster = MockCluster::new(3).expect("a mock cluster");
    let shop = Shop::with(KINDS, 1).await;
    for kind in KINDS {
        cluster.create_topic(&shop.topic(kind), 1, 3).expect("a topic");
    }
    let publisher = KafkaPublisher::builder(cluster.bootstrap_servers()).setting("retry.backoff.ms", "20");
    let mut running = Running::start(&shop, OneOfAKey(publisher.build().expect("settings")));
    let mut answers = 0;
    shop.while_writing(async {
        for _ in 0..persistence() {
            for error in ANSWERS {
                for times in [1, 4] {
                    running.until_published(20).await;
                    cluster.request_errors(Api::Produce, &vec![*error; times]);
                    answers += times;
                }
            }
            for error in ANSWERS_TO_A_NEW_PRODUCER {
                running.until_published(20).await;
                cluster.request_errors(Api::InitProducerId, &[*error; 2]);
                // Makes the publisher replace its producer.
                cluster.request_errors(Api::Produce, &[Error::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED]);
                answers += 3;
            }
        }
        running.until_published(100).await;
    })
    .await;
    running.finish(&shop).await;
    shop.assert_all_told(&cluster.bootstrap_servers(), &format!("{answers} errors injected")).await;
}

/// Makes the relay keep one event of a key under way.
struct OneOfAKey(KafkaPublisher);

#[async_trait]
impl Publisher for OneOfAKey {
    fn capabilities(&self) -> PublisherCapabilities {
        self.0.capabilities().with_keeps_order_after_failure(false)
    }

    async fn open(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        self.0.open(lane).await
    }

    async fn open_isolated(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        self.0.open_isolated(lane).await
    }

    async fn shut_down(&self, grace: Duration) -> bool {
        self.0.shut_down(grace).await
    }
}
