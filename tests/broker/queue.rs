use outbox_kafka::KafkaPublisher;

use crate::{
    running::{Running, persistence},
    shared,
    shop::{AGGREGATES, Shop},
};

/// librdkafka's own queue takes ten messages, so that batches are torn apart at any place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_always_full() {
    let kafka = shared::broker().await;
    let shop = Shop::open(&["orders", "bills"]).await;
    shop.create_topics(&kafka.bootstrap()).await;
    // A backlog, so that batches are longer than the queue.
    let ids: Vec<i64> = (0..AGGREGATES * 10).map(|n| n % AGGREGATES + 1).collect();
    shop.change_many("orders", &ids, 200).await;
    let publisher = KafkaPublisher::builder(kafka.bootstrap())
        .setting("queue.buffering.max.messages", "10")
        .setting("linger.ms", "0")
        .build()
        .expect("settings");
    let mut running = Running::start(&shop, publisher);
    shop.while_writing(running.until_published(800 * persistence())).await;
    running.finish(&shop).await;
    shop.assert_all_told(&kafka.bootstrap(), "queue of ten messages").await;
}
