//! The log that is drained.

use std::time::Instant;

use outbox_core::{
    event::{LaneCount, NewEvent},
    outbox::Outbox as _,
};
use outbox_sqlx::{PostgresLog, postgres::SchemaName};
use sqlx::{AssertSqlSafe, PgPool};

use super::Result;

pub(crate) const AGGREGATE_TYPE: &str = "Agg";
const EVENT_TYPE: &str = "AggChanged";
pub(crate) const AGGREGATES: u64 = 10_000;
/// Events of one aggregate in a row, as when a row is edited several times.
pub(crate) const BURST: u64 = 4;
/// With key and names an event of this payload takes about 300 bytes.
const PAYLOAD_BYTES: usize = 240;
/// Events of one transaction.
const CHUNK: u64 = 5_000;

/// The `n`-th event.
pub(crate) fn event(n: u64) -> Result<NewEvent> {
    Ok(NewEvent::json(AGGREGATE_TYPE, n / BURST % AGGREGATES, EVENT_TYPE, &payload(n))?)
}

pub(crate) fn payload(n: u64) -> serde_json::Value {
    serde_json::json!({"n": n, "text": "x".repeat(PAYLOAD_BYTES - 20)})
}

/// A new log with so many committed events, and a table for the checkpoints of the bare loops.
pub(crate) async fn filled(pool: &PgPool, schema: &str, lanes: LaneCount, events: u64) -> Result<PostgresLog> {
    let log = PostgresLog::builder(pool.clone()).schema(SchemaName::parse(schema)?).lanes(lanes).migrate().await?;
    let begun = Instant::now();
    for start in (0..events).step_by(CHUNK as usize) {
        let chunk: Vec<NewEvent> = (start..events.min(start + CHUNK)).map(event).collect::<Result<_>>()?;
        let mut tx = pool.begin().await?;
        let _receipt = log.append(&mut tx, &chunk).await?;
        tx.commit().await?;
        if start > 0 && start % 500_000 == 0 {
            eprintln!("  {start} of {events} written");
        }
    }
    eprintln!("  {events} events written in {:.1} s", begun.elapsed().as_secs_f64());
    for statement in [
        format!("CREATE TABLE {schema}.raw_checkpoint (position bigint NOT NULL)"),
        format!("INSERT INTO {schema}.raw_checkpoint VALUES (0)"),
        format!("VACUUM ANALYZE {schema}.outbox_event"),
        // Otherwise it would be written out during the first contestants.
        "CHECKPOINT".to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(pool).await?;
    }
    Ok(log)
}
