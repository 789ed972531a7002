//! A producer whose queue is full nearly all the time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use outbox_core::{relay::Relay, retry::Backoff};
use outbox_kafka::KafkaPublisher;
use tokio::sync::oneshot;

use crate::{
    shop::{Kind, Shop},
    store::profile_to,
};

const EVENTS: i64 = 3_000;
const AGGREGATE: i64 = 7;
/// Room for so many messages, of which the relay hands over hundreds at a time.
const QUEUE: &str = "10";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_events_of_a_key_keep_their_places() {
    let shop = Shop::open(Kind::Postgres).await;
    for _ in 0..EVENTS / 100 {
        shop.store.change(AGGREGATE, 100, 0).await;
    }
    let publisher = KafkaPublisher::builder(&shop.topic.brokers).setting("queue.buffering.max.messages", QUEUE);
    let publisher = Arc::new(publisher.build().expect("publisher"));
    let relay = Relay::builder(shop.store.log(), publisher, profile_to(&shop.topic.name))
        .backoff(Backoff::new(Duration::from_millis(10), Duration::from_millis(300)))
        .build();
    let (end, ended) = oneshot::channel::<()>();
    let running = tokio::spawn(async move { relay.run(async { _ = ended.await }).await });
    let reading = shop.topic.read(EVENTS as usize).await;
    drop(end);
    running.await.expect("no panic").expect("no error");
    let told: Vec<(i64, i64)> = reading.rest().await.iter().map(|told| (told.aggregate, told.v)).collect();
    let expected: Vec<(i64, i64)> = (1..=EVENTS).map(|v| (AGGREGATE, v)).collect();
    assert!(told == expected, "{}", first_difference(&told, &expected));
    shop.close().await;
}

fn first_difference(told: &[(i64, i64)], expected: &[(i64, i64)]) -> String {
    let at = told.iter().zip(expected).position(|(told, expected)| told != expected);
    let at = at.unwrap_or(told.len().min(expected.len()));
    let mut times: HashMap<_, usize> = HashMap::new();
    for message in told {
        *times.entry(message).or_default() += 1;
    }
    let repeated = times.values().filter(|times| **times > 1).count();
    format!(
        "{} messages, {repeated} events more than once; at place {at}: {:?} instead of {:?}",
        told.len(),
        told.get(at),
        expected.get(at)
    )
}
