//! The read model's database, and then the broker, are taken away in the middle and brought back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outbox_projector::sql::{PostgresProjection, ProjectionName};
use sqlx::postgres::PgPoolOptions;
use test_services::{OwnKafka, OwnPostgres, PostgresVersion};
use tokio::time::sleep;

use crate::{
    model::{Difference, Kind},
    read_model::ListAndCount,
    running::{Counted, Running, projector, source},
    shop::{Feed, PARTITIONS, Shop, create_read_model},
};

/// First so short that the waits are still growing, then long enough for every time limit to pass.
const AWAY: [Duration; 2] = [Duration::from_secs(4), Duration::from_mins(1)];

/// The most of one partition in such a time: about ten waits from 20 ms on to the longest of half a second, and then four
/// a second if all of them were of the mean length; half as many more for chance. A loop without waits makes thousands.
fn tries(away: Duration) -> usize {
    20 + 6 * away.as_secs() as usize
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_waited_for() {
    let mut database = OwnPostgres::create(PostgresVersion::V15).await;
    let shop = Shop::open(Feed::Kafka).await;
    let options = database.url().parse().expect("options");
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_secs(2)).connect_lazy_with(options);
    create_read_model(&pool).await;
    let name = ProjectionName::parse("model").expect("a name");
    let inner = PostgresProjection::builder(pool.clone(), name, ListAndCount::default()).build();
    let calls = Arc::new(AtomicUsize::new(0));
    let projection = Counted { inner, calls: calls.clone() };
    let letters = shop.dead_letters();
    let source = source(&shop).build().expect("a source");
    let mut running = Running::start(projector(source, Arc::new(projection)).dead_letters(letters));
    let writing = shop.write(rand::random()).await;

    for (away, stop_in_good_order) in AWAY.into_iter().zip([true, false]) {
        running.until_applied(50).await;
        if stop_in_good_order {
            database.stop().await;
        } else {
            database.kill();
        }
        running.until("the loss shows", |status| status.problem().is_some()).await;
        let before = calls.load(Ordering::Relaxed);
        // How long it is away is what the number of tries is measured against.
        sleep(away).await;
        let made = calls.load(Ordering::Relaxed) - before;
        assert!((1..=tries(away) * PARTITIONS as usize).contains(&made), "{made} tries in {away:?}");
        println!("{made} tries in {away:?}");
        database.start().await;
        running.until("it goes on", |status| status.problem().is_none()).await;
    }
    running.until_applied(50).await;
    writing.stop().await;
    shop.until_projected().await;
    let conflicts: usize = running.status.borrow().partitions.values().map(|p| p.conflicts).sum();
    running.stop().await;
    let model = shop.model().await;
    let difference = model.compare(Kind::Sql, &pool).await;
    println!("{} events, {difference}, {conflicts} steps met a conflict", model.len());
    assert_eq!(difference, Difference::default());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_waited_for() {
    let mut kafka = OwnKafka::create(&[]).await;
    let shop = Shop::open_at(&kafka.bootstrap(), Feed::Kafka).await;
    let name = ProjectionName::parse("model").expect("a name");
    let inner = PostgresProjection::builder(shop.pool().clone(), name, ListAndCount::default()).build();
    let calls = Arc::new(AtomicUsize::new(0));
    let projection = Counted { inner, calls: calls.clone() };
    let source = source(&shop).build().expect("a source");
    let mut running = Running::start(projector(source, Arc::new(projection)).dead_letters(shop.dead_letters()));
    let writing = shop.write(rand::random()).await;
    for away in AWAY {
        running.until_applied(50).await;
        kafka.kill();
        // What was received before is applied meanwhile; then there is nothing to do.
        sleep(away / 2).await;
        let before = calls.load(Ordering::Relaxed);
        sleep(away / 2).await;
        let made = calls.load(Ordering::Relaxed) - before;
        assert!(made <= tries(away), "{made} calls of the projection while nothing can come");
        kafka.start().await;
    }
    running.until_applied(50).await;
    writing.stop().await;
    shop.until_projected().await;
    running.stop().await;
    let model = shop.model().await;
    assert_eq!(model.compare(Kind::Sql, shop.pool()).await, Difference::default());
    println!("{} events over a broker that was away twice", model.len());
    shop.close().await;
}
