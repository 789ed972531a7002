//! A live projection changes from the log to Kafka and back, as docs/moving-between-log-and-kafka.md says.

use outbox_core::projection::Applied;
use outbox_kafka::KafkaSource;
use outbox_projector::ProjectorStatus;
use test_services::{kafka_bootstrap, unique};

use crate::{
    history::{Projecting, assert_complete, create_tables, from_log, while_writing},
    support::{Running, Shop},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_moves_to_kafka_and_back_while_changes_go_on() {
    let shop = Shop::open().await;
    let pool = shop.database.connect(6).await;
    create_tables(&pool).await;
    let (group, servers) = (unique("history"), kafka_bootstrap().await);
    let from_kafka = || KafkaSource::builder(&servers, &group, [&*shop.topic]).build().expect("settings");
    let again = |status: &ProjectorStatus| {
        let Applied { applied, duplicates, .. } = status.totals();
        applied >= 200 && duplicates >= 200
    };

    let relay = while_writing(&shop, async {
        let mut first = Projecting::start(&pool, from_log(&shop).build());
        first.until_applied(200).await;

        // There: the topic gets what the log has, from its beginning on, and then the projection reads it from there.
        let relay = Running::start(shop.relay().build());
        first.stop().await;
        let mut second = Projecting::start(&pool, from_kafka());
        second.until("new ones, and again what it had applied", again).await;
        second.stop().await;

        // And back: the log's consumer is where it was left.
        let mut third = Projecting::start(&pool, from_log(&shop).build());
        third.until("new ones, and again what it had applied", again).await;
        third.kill().await;

        // And there again: the group is where it was left.
        let mut fourth = Projecting::start(&pool, from_kafka());
        fourth.until_applied(200).await;
        fourth.stop().await;
        relay
    })
    .await;

    let mut last = Projecting::start(&pool, from_log(&shop).build());
    last.until_nothing_is_left().await;
    let written = assert_complete(&pool).await;
    last.stop().await;
    let mut last = Projecting::start(&pool, from_kafka());
    relay.stop().await;
    last.until_nothing_is_left().await;
    assert_eq!(last.status.borrow().totals().applied, 0, "it was complete");
    last.stop().await;
    println!("{written} changes, 5 moves: each once, in order");
    shop.database.drop_database().await;
}
