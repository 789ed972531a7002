//! A message that cannot be written neither loses nor reorders the others.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use outbox_core::publisher::{Message, Outcome, PublishErrorKind, Publisher};
use outbox_kafka::publisher::KafkaPublisher;
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use crate::support::{Topic, all_delivered, failure, first_deliveries, lane, message, open, outcomes, send, stuffed};

#[tokio::test]
async fn a_message_that_is_too_large_for_the_producer_fails_alone() {
    let topic = Topic::new(3).await;
    let publisher = topic.publisher().setting("message.max.bytes", "2000").build().expect("settings");
    let mut stream = open(&publisher).await;
    let of = |n| topic.message("bad", n);
    let batch = vec![of(0), stuffed(of(1), 3_000), of(2), topic.message("good", 3)];
    let mut first = send(stream.as_mut(), batch).await;
    // Nobody knows of the failure yet: what follows of the key must not be written.
    let mut second = send(stream.as_mut(), vec![of(4), topic.message("good", 5)]).await;
    let first = outcomes(first.as_mut()).await;
    let second = outcomes(second.as_mut()).await;
    assert!(matches!(first[&0], Outcome::Delivered));
    assert_eq!(failure(&first[&1]), Some(PublishErrorKind::Event));
    assert!(matches!(first[&2], Outcome::Aborted), "{first:?}");
    assert!(matches!(first[&3], Outcome::Delivered));
    assert!(matches!(second[&0], Outcome::Aborted), "{second:?}");
    assert!(matches!(second[&1], Outcome::Delivered));

    // Also when it is known: only a new stream writes the key again.
    let third = outcomes(send(stream.as_mut(), vec![of(6)]).await.as_mut()).await;
    assert!(matches!(third[&0], Outcome::Aborted), "{third:?}");
    let mut stream = open(&publisher).await;
    all_delivered(send(stream.as_mut(), vec![of(2), of(4)]).await.as_mut()).await;
    assert_eq!(topic.numbers("bad").await, [0, 2, 4]);
    assert_eq!(topic.numbers("good").await, [3, 5]);
}

#[tokio::test]
async fn what_is_no_topic_name_is_the_messages_fault() {
    let topic = Topic::new(1).await;
    let publisher = topic.publisher().build().expect("settings");
    for name in ["with\0nul", &"x".repeat(600), "two words"] {
        let mut stream = open(&publisher).await;
        let mut delivery = send(stream.as_mut(), vec![message(&(*name).into(), "one", 0)]).await;
        let outcomes = outcomes(delivery.as_mut()).await;
        assert_eq!(failure(&outcomes[&0]), Some(PublishErrorKind::Event), "{name:?}: {outcomes:?}");
    }
}

/// What a relay does with a lane: several batches under way, and after a failure again from the first message that was
/// not delivered. Returns the messages that were refused alone.
async fn relay(
    publisher: &KafkaPublisher,
    number: u8,
    messages: &[Message],
    batch: usize,
    window: usize,
) -> BTreeSet<usize> {
    let mut given_up = BTreeSet::new();
    let mut delivered = BTreeSet::new();
    let mut careful = 0_usize;
    loop {
        let open: Vec<usize> =
            (0..messages.len()).filter(|n| !delivered.contains(n) && !given_up.contains(n)).collect();
        if open.is_empty() {
            return given_up;
        }
        let mut stream = publisher.open(lane(number)).await.expect("a stream");
        let mut failed = false;
        let mut under_way = VecDeque::new();
        let mut to_send = open.into_iter().peekable();
        while !(under_way.is_empty() && (failed || to_send.peek().is_none())) {
            if !failed && to_send.peek().is_some() && under_way.len() < window {
                // After a suspect one at a time, until it shows which one is at fault.
                let alone = careful > 0;
                let numbers: Vec<usize> = to_send.by_ref().take(if alone { 1 } else { batch }).collect();
                let delivery = send(stream.as_mut(), numbers.iter().map(|n| messages[*n].clone()).collect()).await;
                under_way.push_back((numbers, delivery));
                if !alone {
                    continue;
                }
            }
            let Some((numbers, mut delivery)) = under_way.pop_front() else { continue };
            for (index, outcome) in outcomes(delivery.as_mut()).await {
                match outcome {
                    Outcome::Delivered => {
                        careful = careful.saturating_sub(1);
                        delivered.insert(numbers[index]);
                    }
                    Outcome::Aborted => failed = true,
                    Outcome::Failed(error) => {
                        failed = true;
                        match error.kind() {
                            PublishErrorKind::Event => {
                                given_up.insert(numbers[index]);
                                careful = 0;
                            }
                            PublishErrorKind::Suspect => careful = batch,
                            kind => assert_eq!(kind, PublishErrorKind::Environment, "{error}"),
                        }
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_that_the_broker_refuses_neither_loses_nor_reorders_others() {
    let topic = Topic::with(3, &[("max.message.bytes", "10000")]).await;
    let publisher = topic.publisher().setting("batch.size", "9000").build().expect("settings");
    let poisoned: Vec<Message> =
        (0..600).map(|n| stuffed(topic.message("poisoned", n), if n == 150 { 20_000 } else { 300 })).collect();
    let healthy: Vec<Message> = (0..600).map(|n| topic.message("healthy", n)).collect();
    let (given_up, none) = tokio::join!(relay(&publisher, 0, &poisoned, 50, 4), relay(&publisher, 1, &healthy, 50, 4));
    assert_eq!(given_up, [150].into(), "only the one at fault is given up");
    assert_eq!(none, BTreeSet::new());

    let expected: Vec<usize> = (0..600).filter(|n| *n != 150).collect();
    assert_eq!(first_deliveries(&topic.numbers("poisoned").await), expected);
    assert_eq!(first_deliveries(&topic.numbers("healthy").await), (0..600).collect::<Vec<_>>());
}

#[tokio::test]
async fn small_messages_that_are_too_large_together_pass_in_the_end() {
    let topic = Topic::with(1, &[("max.message.bytes", "10000")]).await;
    let publisher = topic.publisher().build().expect("settings");
    let mut stream = open(&publisher).await;
    let batch: Vec<Message> = (0..100).map(|n| stuffed(topic.message("one", n), 300)).collect();
    let together = outcomes(send(stream.as_mut(), batch.clone()).await.as_mut()).await;
    assert_eq!(failure(&together[&0]), Some(PublishErrorKind::Suspect), "the batch was refused, not the message");
    assert!((1..100).all(|n| matches!(together[&n], Outcome::Aborted)), "{together:?}");
    assert_eq!(topic.numbers("one").await, [0; 0], "nothing of it was written");
    let mut stream = open(&publisher).await;
    for message in batch {
        all_delivered(send(stream.as_mut(), vec![message]).await.as_mut()).await;
    }
}

#[tokio::test]
async fn what_follows_a_refused_batch_is_not_written() {
    let topic = Topic::with(1, &[("max.message.bytes", "10000")]).await;
    // Batches are full and leave at once, and with so short a pause before a retry, what follows would be written before
    // anybody could react.
    let settings = [("batch.num.messages", "100"), ("linger.ms", "100"), ("retry.backoff.ms", "1")];
    let publisher = settings.iter().fold(topic.publisher(), |b, (name, value)| b.setting(*name, *value));
    let publisher = publisher.build().expect("settings");
    // The first hundred together are too large for the topic; each hundred behind them is not.
    let long = (0..100).map(|n| stuffed(topic.message("one", n), 300));
    let messages: Vec<Message> = long.chain((100..1_000).map(|n| topic.message("one", n))).collect();
    let sent = outcomes(send(open(&publisher).await.as_mut(), messages.clone()).await.as_mut()).await;
    assert_eq!(failure(&sent[&0]), Some(PublishErrorKind::Suspect), "{:?}", sent[&0]);
    let delivered: Vec<usize> =
        sent.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Delivered)).map(|(n, _)| *n).collect();
    assert_eq!(delivered, [0; 0], "written ahead of the first");

    let publisher = topic.publisher().setting("linger.ms", "0").build().expect("settings");
    let mut stream = open(&publisher).await;
    for chunk in messages.chunks(20) {
        all_delivered(send(stream.as_mut(), chunk.to_vec()).await.as_mut()).await;
    }
    assert_eq!(topic.numbers("one").await, (0..1_000).collect::<Vec<_>>());
}

/// A key that failed stays broken for its stream, in the producer that failed and in the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_stream_overtakes_its_failed_message() {
    let topic = Topic::with(1, &[("max.message.bytes", "10000")]).await;
    let publisher = topic.publisher().build().expect("settings");
    let mut stream = open(&publisher).await;
    let too_large = stuffed(topic.message("one", 0), 20_000);
    let mut failed = send(stream.as_mut(), vec![too_large]).await;
    let mut behind = Vec::new();
    for n in 1..20 {
        behind.push(send(stream.as_mut(), vec![topic.message("one", n)]).await);
    }
    let failed = outcomes(failed.as_mut()).await;
    assert!(matches!(failure(&failed[&0]), Some(PublishErrorKind::Event | PublishErrorKind::Suspect)), "{failed:?}");
    // The outcome came when the producer had ended, so this one goes to the next.
    behind.push(send(stream.as_mut(), vec![topic.message("one", 20)]).await);
    for delivery in &mut behind {
        let outcomes = outcomes(delivery.as_mut()).await;
        assert!(!matches!(outcomes[&0], Outcome::Delivered), "{outcomes:?}");
    }
    assert_eq!(topic.numbers("one").await, [0; 0]);

    let mut stream = open(&publisher).await;
    all_delivered(send(stream.as_mut(), (1..=20).map(|n| topic.message("one", n)).collect()).await.as_mut()).await;
    assert_eq!(topic.numbers("one").await, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn after_a_fatal_error_a_new_producer_goes_on() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("mock", 1, 1).expect("a topic");
    let topic = "mock".into();
    let publisher = KafkaPublisher::builder(cluster.bootstrap_servers()).build().expect("settings");
    let mut stream = open(&publisher).await;
    all_delivered(send(stream.as_mut(), vec![message(&topic, "one", 0)]).await.as_mut()).await;
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
    ] {
        cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
        let mut stream = open(&publisher).await;
        let failed = outcomes(send(stream.as_mut(), vec![message(&topic, "one", 1)]).await.as_mut()).await;
        assert_eq!(failure(&failed[&0]), Some(PublishErrorKind::Environment), "{error:?}: {failed:?}");
        let mut stream = open(&publisher).await;
        all_delivered(send(stream.as_mut(), vec![message(&topic, "one", 2)]).await.as_mut()).await;
    }
    for error in [RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION, RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD]
    {
        cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
        let mut stream = open(&publisher).await;
        let failed = outcomes(send(stream.as_mut(), vec![message(&topic, "one", 3)]).await.as_mut()).await;
        assert_eq!(failure(&failed[&0]), Some(PublishErrorKind::Event), "{error:?}: {failed:?}");
    }
    assert!(publisher.shut_down(Duration::from_secs(20)).await);
}
