use std::collections::HashMap;

use outbox_core::{event::NewEvent, outbox::Outbox};

use crate::support::{Running, Shop, assert_first_deliveries_in_order};

const WRITERS: i64 = 8;
const UPDATES: i64 = 10_000;
const AGGREGATES: i64 = 100;

/// 10,000 updates of 100 aggregates by 8 writers, while the relay is killed again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_deliveries_are_in_order_and_complete() {
    let shop = Shop::open().await;
    let mut running = Running::start(shop.relay().batch(500).build());
    let writers = async {
        let one = |writer: i64| {
            let shop = &shop;
            async move {
                for n in 0..UPDATES / WRITERS {
                    // Writers walk over the same aggregates in different orders, so that they meet.
                    shop.change((n * (2 * writer + 1) + writer) % AGGREGATES + 1).await;
                }
            }
        };
        futures_util::future::join_all((0..WRITERS).map(one)).await;
    };
    let killer = async {
        for kill in 1..=4 {
            let published = kill * 300;
            running.until("some events are published", |s| s.published >= published).await;
            let crashed = std::mem::replace(&mut running, Running::start(shop.relay().batch(500).build()));
            crashed.kill().await;
        }
    };
    tokio::join!(writers, killer);

    let told = shop.read_back(UPDATES as usize).await;
    running.stop().await;
    let changes: HashMap<i64, i64> = sqlx::query_as("SELECT id, v FROM agg WHERE v > 0")
        .fetch_all(shop.database.pool())
        .await
        .expect("aggregates")
        .into_iter()
        .collect();
    assert_eq!(changes.values().sum::<i64>(), UPDATES);
    let duplicates = assert_first_deliveries_in_order(&told, &changes);
    println!("{UPDATES} updates, 4 killed relays: 0 missing, 0 inversions, {duplicates} duplicates");
    shop.database.drop_database().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rolled_back_is_never_seen() {
    let shop = Shop::open().await;
    let running = Running::start(shop.relay().build());
    for n in 1..=50_i64 {
        let mut tx = shop.database.pool().begin().await.expect("begin");
        let ghost = NewEvent::json("Agg", n, "AggChanged", &serde_json::json!({"v": 666})).expect("event");
        let _receipt = shop.log.append(&mut tx, &[ghost]).await.expect("append");
        tx.rollback().await.expect("rollback");
        shop.change(n).await;
    }
    let told = shop.read_back(50).await;
    running.stop().await;
    assert_first_deliveries_in_order(&told, &(1..=50).map(|n| (n, 1)).collect());
    shop.database.drop_database().await;
}
