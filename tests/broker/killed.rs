use std::time::Duration;

use outbox_kafka::KafkaPublisher;
use test_services::OwnKafka;

use crate::{
    running::{Running, persistence},
    shop::Shop,
};

/// Killed with SIGKILL in the middle of the traffic, and started again, while writers go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_is_waited_for() {
    let mut kafka = OwnKafka::create(&[]).await;
    let shop = Shop::open(&["orders", "bills"]).await;
    shop.create_topics(&kafka.bootstrap()).await;
    let publisher = KafkaPublisher::builder(kafka.bootstrap()).build().expect("settings");
    let mut running = Running::start(&shop, publisher);
    let kills = 3 * persistence();
    shop.while_writing(async {
        for kill in 0..kills {
            running.until_published(200).await;
            kafka.kill();
            // How long it is away matters: it may be back before anybody noticed.
            match kill % 3 {
                0 => {}
                1 => tokio::time::sleep(Duration::from_millis(500)).await,
                _ => running.until("the loss is noticed", |status| status.last_error.is_some()).await,
            }
            kafka.start().await;
        }
        running.until_published(200).await;
    })
    .await;
    running.finish(&shop).await;
    shop.assert_all_told(&kafka.bootstrap(), &format!("broker killed {kills} times")).await;
}
