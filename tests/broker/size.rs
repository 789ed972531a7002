use outbox_core::log::{LogAdmin, ParkState, Redrive};
use outbox_kafka::KafkaPublisher;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};

use crate::{
    acl::{Operation, allow, deny},
    running::Running,
    shared,
    shop::{AGGREGATES, Shop, consumer},
};

/// The publisher asks for the limits, and knows what is too large.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_that_is_too_large_and_batches_that_are() {
    only_one_is_at_fault(true).await;
}

/// Only refusals tell of the limits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_that_is_too_large_for_limits_that_may_not_be_asked_for() {
    only_one_is_at_fault(false).await;
}

/// In the topic "short" one event is larger than `max.message.bytes`; in "narrow" each event passes, and a batch of some
/// does not; "wide" takes everything. Only that one event is at fault, and what comes behind it of its key has to wait.
async fn only_one_is_at_fault(limits_are_told: bool) {
    let kafka = shared::broker().await;
    let shop = Shop::open(&["short", "narrow", "wide"]).await;
    shop.create_topic(&kafka.bootstrap(), "short", &[("max.message.bytes", "10000")]).await;
    shop.create_topic(&kafka.bootstrap(), "narrow", &[("max.message.bytes", "6000")]).await;
    shop.create_topic(&kafka.bootstrap(), "wide", &[]).await;
    for kind in ["short", "narrow", "wide"].iter().filter(|_| !limits_are_told) {
        allow(&kafka.bootstrap(), &shop.topic(kind), Operation::All).await;
        deny(&kafka.bootstrap(), &shop.topic(kind), Operation::DescribeConfigs).await;
    }
    // A backlog, so that batches are long.
    let ids: Vec<i64> = (0..AGGREGATES * 10).map(|n| n % AGGREGATES + 1).collect();
    for kind in ["short", "narrow", "wide"] {
        shop.change_many(kind, &ids, 200).await;
    }
    let publisher = KafkaPublisher::builder(kafka.bootstrap()).build().expect("settings");
    let mut running = Running::start(&shop, publisher);
    let too_large = ("short".to_owned(), 7);
    let at_fault = shop
        .while_writing(async {
            running.until_published(300).await;
            shop.change("short", 7, 20_000).await;
            running.until("something is set aside", |status| status.parked > 0).await;
            let at_fault = shop.parked().await.first().cloned();
            shop.change("short", 7, 200).await;
            running.until_published(300).await;
            at_fault.expect("something is set aside")
        })
        .await;
    running.until_drained(&shop).await;

    assert_eq!((&at_fault.0, at_fault.2), (&too_large, ParkState::Parked));
    let parked = shop.parked().await;
    let last = shop.changes().await[&too_large];
    let mut expected = vec![at_fault.clone()];
    expected.extend((at_fault.1 + 1..=last).map(|v| (too_large.clone(), v, ParkState::Behind)));
    assert_eq!(parked, expected, "only the one at fault, and its key behind it");
    let account = shop.account(&kafka.bootstrap()).await;
    println!("one event too large, limits told: {limits_are_told}, before the limit is raised: {account}");
    assert_eq!(account.inverted, 0);
    assert_eq!(account.missing, expected.into_iter().map(|(key, v, _)| (key, v)).collect::<Vec<_>>());

    // The topic takes it now: all of the key arrives, in order.
    raise_limit(&kafka.bootstrap(), &shop.topic("short")).await;
    shop.log.redrive(&consumer(), &Redrive::All).await.expect("redrive");
    let events = parked.len() as u64;
    running.until("the key flows again", |status| status.redriven >= events).await;
    running.finish(&shop).await;
    shop.assert_all_told(
        &kafka.bootstrap(),
        &format!("one event too large, limits told: {limits_are_told}, after the limit is raised"),
    )
    .await;
}

async fn raise_limit(bootstrap: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().expect("an admin client");
    let raised = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", "100000");
    let altered = admin.alter_configs(&[raised], &AdminOptions::new()).await.expect("an answer");
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");
}
