//! Aggregates in PostgreSQL that count their own changes, and the topics that tell of them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use outbox_core::{
    event::{Event, NewEvent},
    log::{ConsumerName, EventLog, LogAdmin, ParkState},
    outbox::Outbox,
    profile::Profile,
};
use outbox_kafka::{KafkaPublisher, TopicSpec};
use outbox_sqlx::PostgresLog;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use test_services::{PostgresVersion, TestDatabase, unique};

use crate::reading::{self, Account};

const WRITERS: u64 = 4;

/// Aggregates of each kind, unless a shop has another number of them.
pub(crate) const AGGREGATES: i64 = 40;

const PARTITIONS: i32 = 3;

/// An aggregate: its kind, which is its type and decides its topic, and its number.
pub(crate) type Key = (String, i64);

pub(crate) struct Shop {
    pub(crate) database: TestDatabase,
    pub(crate) log: PostgresLog,
    pub(crate) profile: Profile,
    prefix: String,
    kinds: &'static [&'static str],
    aggregates: i64,
}

impl Shop {
    /// A fresh database; the topics are not created.
    pub(crate) async fn open(kinds: &'static [&'static str]) -> Self {
        Self::with(kinds, AGGREGATES).await
    }

    /// A fresh database with so many aggregates of each kind.
    pub(crate) async fn with(kinds: &'static [&'static str], aggregates: i64) -> Self {
        let database = TestDatabase::create(PostgresVersion::V15).await;
        sqlx::query("CREATE TABLE agg (kind text, id bigint, v bigint NOT NULL DEFAULT 0, PRIMARY KEY (kind, id))")
            .execute(database.pool())
            .await
            .expect("table");
        sqlx::query("INSERT INTO agg SELECT kind, id FROM unnest($1::text[]) AS kind, generate_series(1, $2) AS id")
            .bind(kinds)
            .bind(aggregates)
            .execute(database.pool())
            .await
            .expect("aggregates");
        let prefix = unique("broker");
        let route = prefix.clone();
        let profile = Profile::default().with_router(move |e: &Event| format!("{route}.{}", e.aggregate_type));
        let log = PostgresLog::builder(database.pool().clone()).profile(profile.clone()).build();
        log.migrate().await.expect("log");
        Self { database, log, profile, prefix, kinds, aggregates }
    }

    pub(crate) fn topic(&self, kind: &str) -> String {
        format!("{}.{kind}", self.prefix)
    }

    /// Creates the topics of all kinds.
    pub(crate) async fn create_topics(&self, bootstrap: &str) {
        for kind in self.kinds {
            self.create_topic(bootstrap, kind, &[]).await;
        }
    }

    pub(crate) async fn create_topic(&self, bootstrap: &str, kind: &str, settings: &[(&str, &str)]) {
        let topic = TopicSpec::new(self.topic(kind), PARTITIONS, 1);
        let topic = settings.iter().fold(topic, |topic, (name, value)| topic.with_setting(*name, *value));
        let publisher = KafkaPublisher::builder(bootstrap).build().expect("settings");
        publisher.ensure_topics(&[topic]).await.expect("topic");
    }

    /// Changes an aggregate and tells of it in about so many bytes, in one transaction.
    pub(crate) async fn change(&self, kind: &str, id: i64, bytes: usize) {
        self.change_many(kind, &[id], bytes).await;
    }

    /// Changes these aggregates, one after the other, in one transaction.
    pub(crate) async fn change_many(&self, kind: &str, ids: &[i64], bytes: usize) {
        let mut tx = self.database.pool().begin().await.expect("begin");
        let mut events = Vec::new();
        for id in ids {
            let v: i64 = sqlx::query_scalar("UPDATE agg SET v = v + 1 WHERE kind = $1 AND id = $2 RETURNING v")
                .bind(kind)
                .bind(id)
                .fetch_one(&mut *tx)
                .await
                .expect("an aggregate");
            let payload = json!({"v": v, "fill": "x".repeat(bytes)});
            events.push(NewEvent::json(kind, id, "changed", &payload).expect("event"));
        }
        let receipt = self.log.append(&mut tx, &events).await.expect("append");
        tx.commit().await.expect("commit");
        receipt.committed();
    }

    /// Four writers change aggregates of all kinds, as long as `trouble` lasts.
    pub(crate) async fn while_writing<T>(&self, trouble: impl Future<Output = T>) -> T {
        let over = AtomicBool::new(false);
        let writers = join_all((0..WRITERS).map(|writer| {
            let over = &over;
            async move {
                let mut random = StdRng::seed_from_u64(writer);
                while !over.load(Ordering::Relaxed) {
                    let kind = self.kinds[random.random_range(0..self.kinds.len())];
                    self.change(kind, random.random_range(1..=self.aggregates), 200).await;
                    // A pace that leaves two cores room for broker and relay.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }));
        let trouble = async {
            let outcome = trouble.await;
            over.store(true, Ordering::Relaxed);
            outcome
        };
        tokio::join!(writers, trouble).1
    }

    /// How often each aggregate was changed.
    pub(crate) async fn changes(&self) -> BTreeMap<Key, i64> {
        let rows: Vec<(String, i64, i64)> = sqlx::query_as("SELECT kind, id, v FROM agg WHERE v > 0")
            .fetch_all(self.database.pool())
            .await
            .expect("aggregates");
        rows.into_iter().map(|(kind, id, v)| ((kind, id), v)).collect()
    }

    /// What is set aside: key, change and why.
    pub(crate) async fn parked(&self) -> Vec<(Key, i64, ParkState)> {
        let parked = self.log.parked(&consumer(), None, 10_000).await.expect("parked events");
        let parked = parked.into_iter().map(|parked| {
            let event = parked.event.event;
            let payload = event.payload.expect("a payload");
            let body: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
            let id = event.aggregate_id.as_str().parse().expect("a number");
            ((event.aggregate_type.as_str().to_owned(), id), body["v"].as_i64().expect("v"), parked.state)
        });
        parked.collect()
    }

    /// Whether everything that was written is done or set aside, by the last checkpoint.
    pub(crate) async fn is_drained(&self) -> bool {
        let progress = self.log.progress(&consumer()).await.expect("progress");
        progress.position == progress.head
    }

    /// Reads back the topics of all kinds.
    pub(crate) async fn account(&self, bootstrap: &str) -> Account {
        let topics = self.kinds.iter().map(|kind| self.topic(kind)).collect();
        let told = reading::read_back(bootstrap, topics).await;
        Account::of(&told, &self.changes().await)
    }

    /// Fails unless everything arrived, in order, and nothing is set aside; returns how much came twice.
    pub(crate) async fn assert_all_told(self, bootstrap: &str, what: &str) -> usize {
        assert_eq!(self.parked().await, [], "set aside though no event was at fault");
        let account = self.account(bootstrap).await;
        println!("{what}: {account}");
        assert_eq!((account.lost, account.inverted), (0, 0));
        self.database.drop_database().await;
        account.duplicates
    }

    pub(crate) fn shared_log(&self) -> Arc<PostgresLog> {
        Arc::new(self.log.clone())
    }
}

pub(crate) fn consumer() -> ConsumerName {
    ConsumerName::parse("relay").expect("a name")
}
