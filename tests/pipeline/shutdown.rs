use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use outbox_core::log::{ConsumerName, EventLog};

use crate::support::{Running, Shop, assert_first_deliveries_in_order, log_on, relay_of};

/// What was acknowledged before a clean stop is not published again by the next owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_successor_of_a_clean_stop_repeats_nothing() {
    let shop = Shop::open().await;
    for n in 1..=600 {
        shop.change(n).await;
    }
    // A small window, so that the stop comes in the middle.
    let mut first = Running::start(shop.relay().batch(50).window(100).build());
    first.until("the first events are published", |s| s.published >= 100).await;
    first.stop().await;
    let second = Running::start(shop.relay().build());
    let told = shop.read_back(600).await;
    second.stop().await;
    let distinct: HashSet<&str> = told.iter().map(|t| t.event_id.as_str()).collect();
    assert_eq!(told.len(), distinct.len(), "events were published twice");
    shop.database.drop_database().await;
}

/// Two relays share the lanes; when one stops, the other goes on with its lanes where it left off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_share_and_hand_over() {
    let shop = Shop::open().await;
    let other_log = Arc::new(log_on(shop.database.connect(4).await, shop.profile.clone()).await);
    let mut first = Running::start(shop.relay().build());
    first.until("the first owns the lanes", |s| s.lanes.len() == 64).await;
    let mut second = Running::start(relay_of(other_log.clone(), &shop.publisher, &shop.profile).build());
    first.until("the first gave half of its lanes away", |s| s.lanes.len() == 32).await;
    let changes: HashMap<i64, i64> = (1..=100).map(|n| (n, 1)).collect();
    for n in 1..=100 {
        shop.change(n).await;
    }
    first.until("the first published", |s| s.published > 0).await;
    first.stop().await;
    second.until("the second owns the lanes", |s| s.lanes.len() == 64).await;
    let told = shop.read_back(100).await;
    assert_eq!(assert_first_deliveries_in_order(&told, &changes), 0, "a clean hand-over repeats nothing");
    second.stop().await;
    let relay = ConsumerName::parse("relay").expect("name");
    let progress = other_log.progress(&relay).await.expect("progress");
    assert_eq!(progress.position, progress.head, "the last checkpoint covers everything");
    shop.database.drop_database().await;
}
