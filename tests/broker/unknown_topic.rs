use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use outbox_core::event::{Lane, LaneCount};
use outbox_kafka::KafkaPublisher;

use crate::{
    reading::{Account, read_back},
    running::{PATIENCE, Running},
    shared,
    shop::{Key, Shop},
};

/// A topic that does not exist yet holds up the lanes of its events, and no others. When it is there all of it arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_created_later() {
    let kafka = shared::broker().await;
    let shop = Shop::open(&["early", "late"]).await;
    shop.create_topic(&kafka.bootstrap(), "early", &[]).await;
    let publisher = KafkaPublisher::builder(kafka.bootstrap())
        .setting("topic.metadata.propagation.max.ms", "1000")
        .build()
        .expect("settings");
    let mut running = Running::start(&shop, publisher);
    let mut stuck = BTreeSet::new();
    for id in 1..=3 {
        shop.change("late", id, 200).await;
        stuck.insert(lane_of(&("late".to_owned(), id)));
    }
    running.until("the topic is missed", |status| status.last_error.is_some()).await;
    println!("{}", running.last_error());
    for _ in 0..10 {
        for id in 1..=40 {
            shop.change("early", id, 200).await;
        }
        for id in 1..=3 {
            shop.change("late", id, 200).await;
        }
    }

    // What has nothing to do with the missing topic arrives. Asked again and again: what the relay says of itself is not
    // what this is about.
    let mut others = shop.changes().await;
    others.retain(|key, _| !stuck.contains(&lane_of(key)));
    assert!(others.len() > 20, "few lanes are left: {others:?}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut told = read_back(&kafka.bootstrap(), vec![shop.topic("early")]).await;
        told.retain(|told| others.contains_key(&told.key));
        let account = Account::of(&told, &others);
        if account.lost == 0 {
            println!("topic unknown, the other lanes: {account}");
            break;
        }
        assert!(Instant::now() < deadline, "the other lanes are held up: {account}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(shop.parked().await, []);

    shop.create_topic(&kafka.bootstrap(), "late", &[]).await;
    running.finish(&shop).await;
    shop.assert_all_told(&kafka.bootstrap(), "topic unknown, then created").await;
}

fn lane_of((kind, id): &Key) -> Lane {
    LaneCount::default().lane_of(&format!("{kind}/{id}"))
}
