//! A database, a topic and a relay of a test's own.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use outbox_core::{
    event::{Event, NewEvent},
    log::EventLog,
    outbox::Outbox,
    profile::Profile,
    relay::{Relay, RelayBuilder, RelayError, RelayStatus},
    retry::Backoff,
};
use outbox_kafka::{KafkaPublisher, TopicSpec};
use outbox_sqlx::PostgresLog;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::json;
use sqlx::PgPool;
use test_services::{PostgresVersion, TestDatabase, kafka_bootstrap, unique};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) const PARTITIONS: i32 = 12;

/// Aggregates in PostgreSQL that count their own changes, and the topic that tells of them.
pub(crate) struct Shop {
    pub(crate) database: TestDatabase,
    pub(crate) log: PostgresLog,
    pub(crate) profile: Profile,
    pub(crate) topic: String,
    pub(crate) publisher: KafkaPublisher,
}

impl Shop {
    pub(crate) async fn open() -> Self {
        let database = TestDatabase::create(PostgresVersion::V15).await;
        sqlx::query("CREATE TABLE agg (id bigint PRIMARY KEY, v bigint NOT NULL DEFAULT 0)")
            .execute(database.pool())
            .await
            .expect("table");
        sqlx::query("INSERT INTO agg (id) SELECT generate_series(1, 1000)")
            .execute(database.pool())
            .await
            .expect("rows");
        let topic = unique("pipeline");
        let route = topic.clone();
        let profile = Profile::default().with_router(move |_: &Event| route.clone());
        let log = log_on(database.pool().clone(), profile.clone()).await;
        let publisher = KafkaPublisher::builder(kafka_bootstrap().await).build().expect("publisher");
        publisher.ensure_topics(&[TopicSpec::new(&topic, PARTITIONS, 1)]).await.expect("topic");
        Self { database, log, profile, topic, publisher }
    }

    pub(crate) fn relay(&self) -> RelayBuilder {
        relay_of(Arc::new(self.log.clone()), &self.publisher, &self.profile)
    }

    /// Changes an aggregate and tells of it, in one transaction.
    pub(crate) async fn change(&self, aggregate: i64) {
        change(self.database.pool(), &self.log, aggregate).await.expect("change");
    }

    /// Every message of the topic in the order of its partition, until so many different events were seen.
    pub(crate) async fn read_back(&self, events: usize) -> Vec<Told> {
        read_back(&self.topic, events).await
    }
}

/// Every message of a topic in the order of its partition, until so many different events were seen.
pub(crate) async fn read_back(topic: &str, events: usize) -> Vec<Told> {
    let (topic, bootstrap) = (topic.to_owned(), kafka_bootstrap().await);
    tokio::task::spawn_blocking(move || read_topic(&bootstrap, &topic, events)).await.expect("reader")
}

pub(crate) async fn log_on(pool: PgPool, profile: Profile) -> PostgresLog {
    let log = PostgresLog::builder(pool).profile(profile).build();
    log.migrate().await.expect("migrate");
    log
}

pub(crate) fn relay_of(log: Arc<dyn EventLog>, publisher: &KafkaPublisher, profile: &Profile) -> RelayBuilder {
    Relay::builder(log, Arc::new(publisher.clone()), profile.clone())
        .lease(Duration::from_secs(2))
        .poll(Duration::from_millis(100))
        .backoff(Backoff::new(Duration::from_millis(10), Duration::from_millis(500)))
}

pub(crate) async fn change(pool: &PgPool, log: &PostgresLog, aggregate: i64) -> Result<(), Box<dyn std::error::Error>> {
    let mut tx = pool.begin().await?;
    let v: i64 = sqlx::query_scalar("UPDATE agg SET v = v + 1 WHERE id = $1 RETURNING v")
        .bind(aggregate)
        .fetch_one(&mut *tx)
        .await?;
    let event = NewEvent::json("Agg", aggregate, "AggChanged", &json!({"v": v}))?;
    let receipt = log.append(&mut tx, &[event]).await?;
    tx.commit().await?;
    receipt.committed();
    Ok(())
}

/// A relay under way.
pub(crate) struct Running {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), RelayError>>,
    pub(crate) status: watch::Receiver<RelayStatus>,
}

impl Running {
    pub(crate) fn start(relay: Relay) -> Self {
        let status = relay.status();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let shutdown = async { _ = stopped.await };
            relay.run(shutdown).await
        });
        Self { stop: Some(stop), task, status }
    }

    pub(crate) async fn until(&mut self, what: &str, reached: impl FnMut(&RelayStatus) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, self.status.wait_for(reached)).await;
        if let Err(_) | Ok(Err(_)) = waited.map(|r| r.map(drop)) {
            panic!("in vain: {what}; status {:?}", *self.status.borrow());
        }
    }

    /// As a crash: nothing more is done, and nothing tidied up.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let aborted = self.task.await;
        assert!(aborted.is_err_and(|e| e.is_cancelled()), "the relay had ended by itself");
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(PATIENCE, self.task).await.expect("stopped in time").expect("no panic").expect("no error");
    }
}

/// What one message said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) event_id: String,
    pub(crate) aggregate: i64,
    pub(crate) v: i64,
}

/// Reads with nothing of ours: the wire format is what it says.
fn read_topic(bootstrap: &str, topic: &str, events: usize) -> Vec<Told> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", unique("reader"))
        .set("enable.auto.commit", "false")
        .create()
        .expect("consumer");
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning).expect("partition");
    }
    consumer.assign(&all).expect("assign");
    let deadline = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    let mut seen = HashSet::new();
    while seen.len() < events {
        assert!(Instant::now() < deadline, "{} of {events} events arrived", seen.len());
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.expect("message");
        let body: serde_json::Value = serde_json::from_slice(message.payload().expect("body")).expect("JSON");
        let aggregate = body["aggregate_id"].as_str().expect("aggregate_id");
        assert_eq!(message.key(), Some(aggregate.as_bytes()));
        let event_id = body["event_id"].as_str().expect("event_id").to_owned();
        seen.insert(event_id.clone());
        let aggregate = aggregate.parse().expect("number");
        told.push(Told { event_id, aggregate, v: body["payload"]["v"].as_i64().expect("v") });
    }
    told
}

/// Fails unless the first delivery of every aggregate's events is `1, 2, 3, …`; returns the duplicates.
pub(crate) fn assert_first_deliveries_in_order(told: &[Told], changes: &HashMap<i64, i64>) -> usize {
    let mut seen = HashSet::new();
    let mut last: HashMap<i64, i64> = HashMap::new();
    for told in told.iter().filter(|t| seen.insert(t.event_id.as_str())) {
        let last = last.entry(told.aggregate).or_default();
        assert_eq!(told.v, *last + 1, "aggregate {}: after {last}", told.aggregate);
        *last = told.v;
    }
    assert_eq!(&last, changes, "missing or invented events");
    told.len() - seen.len()
}
