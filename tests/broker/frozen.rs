use std::time::Duration;

use outbox_kafka::KafkaPublisher;
use test_services::OwnKafka;

use crate::{
    running::{Running, persistence},
    shop::Shop,
};

/// Requests and their retries, connections and the publisher's own patience with a cluster (5 s): all of them end while
/// the broker is stopped. Then it goes on with what it had received.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_stopped_for_longer_than_any_timeout() {
    // As with the defaults of a broker, its next heartbeat, and with it the end of its being fenced, may be a while off
    // when it goes on. Until then it tells its clients that there are no brokers.
    let kafka = OwnKafka::create(&[("broker.heartbeat.interval.ms", "900")]).await;
    let shop = Shop::open(&["orders", "bills"]).await;
    shop.create_topics(&kafka.bootstrap()).await;
    let timeouts = [
        ("socket.timeout.ms", "1000"),
        ("request.timeout.ms", "500"),
        ("socket.connection.setup.timeout.ms", "1000"),
        ("metadata.max.age.ms", "2000"),
        ("topic.metadata.refresh.interval.ms", "1000"),
    ];
    let publisher = KafkaPublisher::builder(kafka.bootstrap());
    let publisher = timeouts.iter().fold(publisher, |publisher, (name, value)| publisher.setting(*name, *value));
    let mut running = Running::start(&shop, publisher.build().expect("settings"));
    let stops = [2, 7].repeat(persistence() as usize);
    shop.while_writing(async {
        for seconds in &stops {
            running.until_published(200).await;
            kafka.freeze();
            // Time is what this test is about.
            tokio::time::sleep(Duration::from_secs(*seconds)).await;
            kafka.thaw();
        }
        running.until_published(200).await;
    })
    .await;
    running.finish(&shop).await;
    shop.assert_all_told(&kafka.bootstrap(), &format!("broker stopped for {stops:?} s")).await;
}
