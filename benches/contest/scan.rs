//! Reading alone.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, PgPool, Row as _, SqlSafeStr as _, SqlStr};

use super::{
    PAGE, Result, Task,
    gauge::{Gauge, Outcome},
};

/// A keyset page, all columns of an event, in order.
pub(super) fn page(schema: &str) -> SqlStr {
    AssertSqlSafe(format!(
        "SELECT position, aggregate_id, payload, id, aggregate_type, event_type, content_type, headers, created_at \
         FROM {schema}.outbox_event WHERE position > $1 ORDER BY position LIMIT $2"
    ))
    .into_sql_str()
}

pub(super) async fn run(pool: &PgPool, task: &Task, gauge: Gauge) -> Result<Outcome> {
    let seen = Arc::new(AtomicU64::new(0));
    let done = seen.clone();
    let sql = page(&task.schema);
    let running = gauge.start(move || done.load(Ordering::Relaxed)).await?;
    let mut position = 0_i64;
    while seen.load(Ordering::Relaxed) < task.events {
        let mut rows = sqlx::query(sql.clone()).bind(position).bind(PAGE).fetch(pool);
        while let Some(row) = rows.try_next().await? {
            let fields: (&str, &[u8]) = (row.try_get(1)?, row.try_get(2)?);
            std::hint::black_box(fields);
            position = row.try_get(0)?;
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }
    running.end(task.events).await
}
