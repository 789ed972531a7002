//! Topics that take only small batches, or only small messages.

use std::{
    collections::BTreeSet,
    sync::Mutex,
    time::{Duration, Instant},
};

use outbox_core::publisher::{Message, Outcome, PublishErrorKind};
use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
    config::FromClientConfigAndContext,
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};

use crate::{
    lane::relay,
    support::{PATIENCE, Topic, all_delivered, failure, first_deliveries, open, outcomes, send, stuffed, within},
};

/// Changes the topic's `max.message.bytes`, and waits until the broker goes by it.
pub(crate) async fn limit_to(topic: &Topic, bytes: usize) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &topic.servers).set("message.max.bytes", "8388608");
    let admin: AdminClient<DefaultClientContext> = client.create().expect("an administrator");
    let limit = bytes.to_string();
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic.name)).set("max.message.bytes", &limit);
    let changed = admin.alter_configs([&change], &AdminOptions::new()).await.expect("an answer");
    assert!(changed.iter().all(Result::is_ok), "{changed:?}");
    // The topic's log takes it over a moment later and tells nobody: so it is tried with messages of a key of its own.
    let name = topic.name.clone();
    let probing = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + PATIENCE;
        while !takes(&client, &name, bytes / 2) || takes(&client, &name, bytes) {
            assert!(Instant::now() < deadline, "the limit has no effect");
        }
    });
    probing.await.expect("a probe");
}

/// Whether the topic takes a message whose body alone has so many bytes.
fn takes(client: &ClientConfig, topic: &str, bytes: usize) -> bool {
    #[derive(Default)]
    struct Fate(Mutex<Option<bool>>);
    impl ClientContext for Fate {}
    impl ProducerContext for Fate {
        type DeliveryOpaque = ();

        fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
            *self.0.lock().expect("no panic") = Some(result.is_ok());
        }
    }
    let producer = BaseProducer::from_config_and_context(client, Fate::default()).expect("a producer");
    let body = vec![b'0'; bytes];
    producer.send(BaseRecord::to(topic).key("probe").payload(&body)).map_err(|(error, _)| error).expect("queued");
    producer.flush(PATIENCE).expect("flushed");
    producer.context().0.lock().expect("no panic").expect("a report")
}

#[tokio::test]
async fn healthy_messages_are_never_put_into_batches_too_large_for_their_topic() {
    let topic = Topic::with(1, &[("max.message.bytes", "10000")]).await;
    let publisher = topic.publisher().build().expect("settings");
    let messages: Vec<Message> =
        (0..1_000).map(|n| stuffed(topic.message(&format!("key-{}", n % 10), n), 300)).collect();
    // Nobody is blamed, not even for a moment.
    all_delivered(send(open(&publisher).await.as_mut(), messages).await.as_mut()).await;
    for key in 0..10 {
        assert_eq!(topic.numbers(&format!("key-{key}")).await, (key..1_000).step_by(10).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_a_small_limit_costs_another_topics_messages_nothing() {
    let (large, small) = (Topic::new(3).await, Topic::with(1, &[("max.message.bytes", "10000")]).await);
    let publisher = large.publisher().build().expect("settings");
    let traffic: Vec<Message> = (0..2_000).map(|n| stuffed(large.message("one", n), 300)).collect();
    let late: Vec<Message> = (0..200).map(|n| stuffed(small.message("one", n), 300)).collect();
    // The first use of the small topic comes in the middle of the others' messages.
    let (first, second) = tokio::join!(relay(&publisher, 0, &traffic, 20, 4), relay(&publisher, 1, &late, 50, 2));
    for fared in [first, second] {
        assert!(fared.given_up.is_empty() && fared.suspected.is_empty(), "{fared:?}");
    }
    assert_eq!(first_deliveries(&large.numbers("one").await), (0..2_000).collect::<Vec<_>>());
    assert_eq!(first_deliveries(&small.numbers("one").await), (0..200).collect::<Vec<_>>());
}

/// The broker and the publisher agree on what a message takes, to the byte.
#[tokio::test]
async fn a_message_as_large_as_the_limit_passes_and_a_larger_one_is_refused_at_once() {
    const LIMIT: usize = 10_000;
    let topic = Topic::with(1, &[("max.message.bytes", "10000")]).await;
    let publisher = topic.publisher().build().expect("settings");
    let headers = vec![("name".into(), "value".into()), ("empty".into(), "".into())];
    let sized =
        |n: usize, bytes: usize| Message { headers: headers.clone(), ..stuffed(topic.message("key", n), bytes) };
    // Batch header, record length, 3, key and body with their lengths, count of headers, headers with their lengths.
    let framing = 61 + 3 + 3 + (1 + 3) + 3 + 1 + (1 + 4) + (1 + 5) + (1 + 5) + 1;
    let fits = sized(0, LIMIT - framing);
    let too_large = sized(1, LIMIT - framing + 1);
    all_delivered(send(open(&publisher).await.as_mut(), vec![fits]).await.as_mut()).await;

    let batch = vec![too_large, topic.message("key", 2), topic.message("other", 3)];
    let fates = outcomes(send(open(&publisher).await.as_mut(), batch).await.as_mut()).await;
    let Outcome::Failed(error) = &fates[&0] else { panic!("{fates:?}") };
    assert_eq!(error.kind(), PublishErrorKind::Event);
    let said = error.to_string();
    assert!(said.contains("10001 bytes") && said.contains("10000") && said.contains(&*topic.name), "{said}");
    assert!(matches!(fates[&1], Outcome::Aborted), "{fates:?}");
    assert!(matches!(fates[&2], Outcome::Delivered), "the others do not notice: {fates:?}");
}

#[tokio::test]
async fn a_limit_that_was_raised_counts() {
    let topic = Topic::with(1, &[("max.message.bytes", "10000")]).await;
    let publisher = topic.publisher().build().expect("settings");
    let large = stuffed(topic.message("key", 0), 20_000);
    let refused = outcomes(send(open(&publisher).await.as_mut(), vec![large.clone()]).await.as_mut()).await;
    assert_eq!(failure(&refused[&0]), Some(PublishErrorKind::Event));
    limit_to(&topic, 100_000).await;
    // What was learned a moment ago is believed for a second.
    within("the message passes", async {
        loop {
            let fate = outcomes(send(open(&publisher).await.as_mut(), vec![large.clone()]).await.as_mut()).await;
            if matches!(fate[&0], Outcome::Delivered) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// The publisher learned the topic's limit before it was lowered, so the broker is the one to refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_refused_batch_only_the_message_at_fault_is_given_up() {
    const COUNT: usize = 1_000;
    let topic = Topic::new(3).await;
    let publisher = topic.publisher().build().expect("settings");
    all_delivered(send(open(&publisher).await.as_mut(), vec![topic.message("first", 0)]).await.as_mut()).await;
    limit_to(&topic, 10_000).await;
    let poisoned: Vec<Message> =
        (0..COUNT).map(|n| stuffed(topic.message("poisoned", n), if n == 500 { 20_000 } else { 300 })).collect();
    let healthy: Vec<Message> = (0..COUNT).map(|n| topic.message("healthy", n)).collect();
    let (at_fault, innocent) =
        tokio::join!(relay(&publisher, 0, &poisoned, 80, 8), relay(&publisher, 1, &healthy, 80, 8));
    assert_eq!(at_fault.given_up, BTreeSet::from([500]), "only the one at fault is given up");
    assert!(!at_fault.suspected.is_empty(), "no batch was refused");
    assert_eq!(innocent.given_up, BTreeSet::new());

    let expected: Vec<usize> = (0..COUNT).filter(|n| *n != 500).collect();
    assert_eq!(first_deliveries(&topic.numbers("poisoned").await), expected);
    assert_eq!(first_deliveries(&topic.numbers("healthy").await), (0..COUNT).collect::<Vec<_>>());
    // The limit is known again: what follows is refused at once, and no batch with it.
    let last = outcomes(send(open(&publisher).await.as_mut(), vec![poisoned[500].clone()]).await.as_mut()).await;
    assert_eq!(failure(&last[&0]), Some(PublishErrorKind::Event));
}
