//! PostgreSQL → Kafka.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::TryStreamExt;
use outbox_core::{
    event::{Event, NewEvent},
    log::ConsumerName,
    memory::NullPublisher,
    outbox::Outbox,
    profile::Profile,
    publisher::Publisher,
    relay::Relay,
};
use outbox_kafka::{KafkaPublisher, TopicSpec};
use outbox_sqlx::PostgresLog;
use rdkafka::{
    ClientConfig, ClientContext,
    error::KafkaError,
    producer::{BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer},
};
use sqlx::{PgPool, Row};
use test_services::{PostgresVersion, TestDatabase, kafka_bootstrap, unique};

use crate::{Size, Table, aggregate, payload, table::Stopwatch};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PAGE: i64 = 5_000;
const PARTITIONS: i32 = 12;

pub(crate) async fn run(size: &Size) -> Result<Table> {
    let database = TestDatabase::create(PostgresVersion::V15).await;
    let pool = database.pool();
    let log = PostgresLog::builder(pool.clone()).build();
    log.migrate().await?;
    fill(&log, pool, size.events).await?;
    sqlx::query("VACUUM ANALYZE outbox.outbox_event").execute(pool).await?;
    sqlx::query("CREATE TABLE raw_checkpoint (position bigint NOT NULL)").execute(pool).await?;
    sqlx::query("INSERT INTO raw_checkpoint VALUES (0)").execute(pool).await?;

    let mut table = Table::default();
    for round in 1..=size.rounds {
        eprintln!("round {round} of {}, PostgreSQL → Kafka", size.rounds);
        let watch = Stopwatch::start();
        raw_scan(pool, size.events).await?;
        table.record("raw scan", size.events, watch.took());

        let topic = fresh_topic().await?;
        let watch = Stopwatch::start();
        raw_produce(&topic, size.events).await?;
        table.record("raw produce", size.events, watch.took());

        let topic = fresh_topic().await?;
        let watch = Stopwatch::start();
        raw_ideal(pool, &topic, size.events).await?;
        table.record("raw: page + produce + checkpoint", size.events, watch.took());

        let watch = Stopwatch::start();
        relay(&log, Arc::new(NullPublisher), "null", size.events).await?;
        table.record("relay, null publisher", size.events, watch.took());

        let topic = fresh_topic().await?;
        let publisher = KafkaPublisher::builder(kafka_bootstrap().await).build()?;
        let watch = Stopwatch::start();
        relay(&log, Arc::new(publisher), &topic, size.events).await?;
        table.record("relay", size.events, watch.took());
    }
    database.drop_database().await;
    Ok(table)
}

async fn fill(log: &PostgresLog, pool: &PgPool, events: usize) -> Result<()> {
    let watch = Stopwatch::start();
    for start in (0..events).step_by(5_000) {
        let chunk: std::result::Result<Vec<NewEvent>, _> = (start..events.min(start + 5_000))
            .map(|n| NewEvent::json("Agg", aggregate(n), "AggChanged", &payload(n)))
            .collect();
        let mut tx = pool.begin().await?;
        let _receipt = log.append(&mut tx, &chunk?).await?;
        tx.commit().await?;
        if start > 0 && start % 100_000 == 0 {
            eprintln!("  {start} of {events} written");
        }
    }
    eprintln!("  {events} written in {:.1} s", watch.took().as_secs_f64());
    Ok(())
}

async fn fresh_topic() -> Result<String> {
    let topic = unique("drain");
    let publisher = KafkaPublisher::builder(kafka_bootstrap().await).build()?;
    publisher.ensure_topics(&[TopicSpec::new(&topic, PARTITIONS, 1)]).await?;
    Ok(topic)
}

async fn raw_scan(pool: &PgPool, events: usize) -> Result<()> {
    let (mut position, mut seen) = (0_i64, 0);
    while seen < events {
        let mut rows = page(pool, position);
        while let Some(row) = rows.try_next().await? {
            let (_key, _payload): (String, Vec<u8>) = (row.try_get(1)?, row.try_get(2)?);
            position = row.try_get(0)?;
            seen += 1;
        }
    }
    Ok(())
}

fn page(
    pool: &PgPool,
    after: i64,
) -> impl futures_util::Stream<Item = std::result::Result<sqlx::postgres::PgRow, sqlx::Error>> + Unpin + '_ {
    Box::pin(
        sqlx::query(
            "SELECT position, aggregate_id, payload, id, aggregate_type, event_type, content_type, headers, created_at \
             FROM outbox.outbox_event WHERE position > $1 ORDER BY position LIMIT $2",
        )
        .bind(after)
        .bind(PAGE)
        .fetch(pool),
    )
}

/// Counts acknowledgements.
#[derive(Default)]
struct Acks(AtomicUsize);

impl ClientContext for Acks {}

impl ProducerContext<NoCustomPartitioner> for Acks {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.0.fetch_add(1, Ordering::Release);
        }
    }
}

async fn producer() -> Result<ThreadedProducer<Acks>> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", kafka_bootstrap().await)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "1000000")
        .create_with_context(Acks::default())?)
}

fn produce(producer: &ThreadedProducer<Acks>, topic: &str, key: &str, payload: &[u8]) -> Result<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(payload);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(rdkafka::types::RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                std::thread::sleep(Duration::from_micros(200));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

async fn acked(producer: &ThreadedProducer<Acks>, events: usize) {
    while producer.context().0.load(Ordering::Acquire) < events {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// From memory: what the client and the broker can take.
async fn raw_produce(topic: &str, events: usize) -> Result<()> {
    let body = serde_json::to_vec(&payload(0))?;
    let producer = producer().await?;
    for n in 0..events {
        produce(&producer, topic, &aggregate(n).to_string(), &body)?;
    }
    acked(&producer, events).await;
    Ok(())
}

/// One page ahead, one checkpoint a page; no lanes, no fence, no straggler, one reader, the bare payload.
async fn raw_ideal(pool: &PgPool, topic: &str, events: usize) -> Result<()> {
    let producer = producer().await?;
    let (mut position, mut sent, mut last_page) = (0_i64, 0, 0);
    while sent < events {
        let rows: Vec<sqlx::postgres::PgRow> = page(pool, position).try_collect().await?;
        for row in &rows {
            let (key, payload): (&str, &[u8]) = (row.try_get(1)?, row.try_get(2)?);
            produce(&producer, topic, key, payload)?;
            position = row.try_get(0)?;
        }
        acked(&producer, last_page).await;
        sqlx::query("UPDATE raw_checkpoint SET position = $1").bind(position).execute(pool).await?;
        sent += rows.len();
        last_page = sent;
    }
    acked(&producer, events).await;
    Ok(())
}

async fn relay(log: &PostgresLog, publisher: Arc<dyn Publisher>, topic: &str, events: usize) -> Result<()> {
    let route = topic.to_owned();
    let profile = Profile::default().with_router(move |_: &Event| route.clone());
    let relay = Relay::builder(Arc::new(log.clone()), publisher.clone(), profile)
        .consumer(ConsumerName::parse(unique("drain"))?)
        .batch(PAGE as usize)
        .build();
    let mut status = relay.status();
    let drained = async move { _ = status.wait_for(|s| s.published >= events as u64).await };
    relay.run(drained).await?;
    publisher.shut_down(Duration::from_secs(10)).await;
    Ok(())
}
