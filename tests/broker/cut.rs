use outbox_kafka::KafkaPublisher;
use rand::RngExt;

use crate::{
    running::{Running, persistence},
    shared,
    shop::Shop,
};

/// The connections break in the middle of a request, again and again: of some batches the broker has the beginning, of
/// some all of it and the answer is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_in_the_middle_of_a_batch() {
    let kafka = shared::broker().await;
    let proxy = kafka.proxy().await;
    let shop = Shop::open(&["orders", "bills"]).await;
    shop.create_topics(&kafka.bootstrap()).await;
    let publisher = KafkaPublisher::builder(proxy.addr().to_string()).build().expect("settings");
    let mut running = Running::start(&shop, publisher);
    let cuts = 20 * persistence();
    shop.while_writing(async {
        for _ in 0..cuts {
            running.until_published(30).await;
            // The next request, or one after some batches.
            let bytes = rand::rng().random_range(0..15_000);
            let before = proxy.cuts();
            proxy.cut_after(bytes);
            running.until_published(30).await;
            while proxy.cuts() == before {
                running.until_published(1).await;
            }
        }
    })
    .await;
    running.finish(&shop).await;
    let duplicates = shop.assert_all_told(&kafka.bootstrap(), &format!("connections cut {cuts} times")).await;
    // The producer lives on and sends again by itself, and the broker knows its sequences.
    assert_eq!(duplicates, 0);
}
