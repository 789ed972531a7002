//! Transactions of the log's own.

use outbox_core::log::{LogError, LogErrorKind};
use sqlx::{PgPool, Postgres, Transaction};

use super::error;

/// Begins a transaction, in a task of its own: sqlx 0.9.0 forgets a `BEGIN` that was dropped while it was under way, and
/// the pool would lend the connection to others in the middle of that transaction (mended in sqlx by its #4394). Here
/// the task ends the `BEGIN`, and the transaction that nobody takes is rolled back.
pub(super) async fn begin(pool: &PgPool, sql: &'static str) -> Result<Transaction<'static, Postgres>, LogError> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with(sql).await }).await;
    let stopping = |stopping| {
        let message = "the runtime is shutting down";
        LogError::new(LogErrorKind::Unavailable, message).with_source(stopping)
    };
    begun.map_err(stopping)?.map_err(error::log)
}
