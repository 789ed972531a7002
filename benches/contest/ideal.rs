//! The least that carries a table to Kafka at least once: keyset pages, an idempotent producer, one checkpoint a page.
//!
//! It reads and sends one page while the page before is acknowledged and recorded. One reader, one thread, no lanes, no
//! fences, nothing about transactions that commit late, no failures.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::{TryStreamExt as _, future::try_join};
use rdkafka::producer::BaseRecord;
use sqlx::{AssertSqlSafe, PgPool, Row as _, SqlSafeStr as _, postgres::PgRow};
use test_services::kafka_bootstrap;

use super::{
    Carries, PAGE, Result, Task,
    gauge::{Gauge, Outcome},
    producer::Producer,
    same_message::SameMessage,
    scan,
};

pub(super) async fn run(pool: &PgPool, task: &Task, carries: Carries, gauge: Gauge) -> Result<Outcome> {
    let acked = Arc::new(AtomicU64::new(0));
    let servers = kafka_bootstrap().await;
    let mut message = match carries {
        Carries::Payload => None,
        Carries::Message => Some(SameMessage::checked(pool, task).await?),
    };
    let read = scan::page(&task.schema);
    let record = format!("UPDATE {}.raw_checkpoint SET position = $1", task.schema);
    let record = AssertSqlSafe(record).into_sql_str();

    let done = acked.clone();
    let running = gauge.start(move || done.load(Ordering::Acquire)).await?;
    let producer = Producer::create(&servers, acked)?;
    let checkpoint = async |Page { last, sent }: Page| -> Result<()> {
        producer.acked(sent).await?;
        sqlx::query(record.clone()).bind(last).execute(pool).await?;
        Ok(())
    };
    let mut before = Page::default();
    while before.sent < task.events {
        let next = async {
            let mut page = before;
            let mut rows = sqlx::query(read.clone()).bind(before.last).bind(PAGE).fetch(pool);
            while let Some(row) = rows.try_next().await? {
                page.last = row.try_get(0)?;
                page.sent += 1;
                send(&producer, &task.topic, &row, message.as_mut())?;
            }
            Ok(page)
        };
        let recorded = async { if before.sent > 0 { checkpoint(before).await } else { Ok(()) } };
        (before, ()) = try_join(next, recorded).await?;
    }
    checkpoint(before).await?;
    drop(producer);
    running.end(task.events).await
}

/// The position of its last row, and how many events were sent with it.
#[derive(Clone, Copy, Default)]
struct Page {
    last: i64,
    sent: u64,
}

fn send(producer: &Producer, topic: &str, row: &PgRow, message: Option<&mut SameMessage>) -> Result<()> {
    let key: &str = row.try_get(1)?;
    match message {
        None => producer.send(BaseRecord::to(topic).key(key).payload(row.try_get::<&[u8], _>(2)?)),
        Some(message) => {
            let headers = message.write(row)?;
            producer.send(BaseRecord::to(topic).key(key).payload(message.body()).headers(headers))
        }
    }
}
