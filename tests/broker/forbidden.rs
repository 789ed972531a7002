use std::sync::Arc;

use outbox_kafka::KafkaPublisher;
use test_services::OwnKafka;

use crate::{
    acl::{Operation, allow, clear, deny},
    running::Running,
    shared,
    shop::Shop,
};

/// Writing to one topic is refused, and of another not even its existence is told, in the middle of the traffic. Nothing
/// is blamed for it, and when it is granted again everything arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_may_not_be_written_for_a_while() {
    let kafka: Arc<OwnKafka> = shared::broker().await;
    let bootstrap = kafka.bootstrap();
    let shop = Shop::open(&["open", "locked", "hidden"]).await;
    shop.create_topics(&bootstrap).await;
    let (locked, hidden) = (shop.topic("locked"), shop.topic("hidden"));
    let publisher = KafkaPublisher::builder(&bootstrap)
        .setting("topic.metadata.propagation.max.ms", "1000")
        .setting("topic.metadata.refresh.interval.ms", "1000")
        .build()
        .expect("settings");
    let mut running = Running::start(&shop, publisher);
    shop.while_writing(async {
        running.until_published(300).await;
        allow(&bootstrap, &locked, Operation::Describe).await;
        allow(&bootstrap, &locked, Operation::Read).await;
        deny(&bootstrap, &locked, Operation::Write).await;
        deny(&bootstrap, &hidden, Operation::All).await;
        running.until("the refusal shows", |status| status.last_error.is_some()).await;
        println!("{}", running.last_error());
        for id in 1..=3 {
            shop.change("open", id, 200).await;
        }
        running.until_published(50).await;
        clear(&bootstrap, &locked).await;
        clear(&bootstrap, &hidden).await;
        running.until_published(300).await;
    })
    .await;
    running.finish(&shop).await;
    shop.assert_all_told(&bootstrap, "writing forbidden, then granted").await;
}
