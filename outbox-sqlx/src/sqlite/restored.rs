//! A log in a file that was put back to an earlier time.

use outbox_core::log::{LogError, Reanchored};
use sqlx::SqliteConnection;

use super::{
    Inner,
    consumers::{begin, names, start_over},
    error, reader,
};

/// Positions that copies of events have are not issued again either.
const HIGHEST: &str = "SELECT max(?1, coalesce((SELECT max(position) FROM outbox_parked), 0), \
    coalesce((SELECT max(position) FROM outbox_discarded), 0))";

/// Raises the generation. What was written and published after the backup is gone from the file, but consumers have
/// seen it: its positions are issued again, to other events.
pub(super) async fn reanchor(log: &Inner) -> Result<Reanchored, LogError> {
    let mut tx = begin(log).await?;
    let before = reader::state(log, &mut tx).await?;
    let highest: i64 =
        sqlx::query_scalar(HIGHEST).bind(before.head as i64).fetch_one(&mut *tx).await.map_err(error::log)?;
    let generation = before.generations.next()?;
    begin_generation(&mut tx, generation, highest).await?;
    let state = reader::state(log, &mut tx).await?;
    for consumer in names(&mut tx).await? {
        start_over(&mut tx, &state, &consumer, before.head).await?;
    }
    tx.commit().await.map_err(error::log)?;
    tracing::warn!(generation, from_position = highest + 1, "re-anchored the log");
    Ok(Reanchored { log: state.identity.id, generation, from_position: highest as u64 + 1 })
}

async fn begin_generation(conn: &mut SqliteConnection, generation: u16, highest: i64) -> Result<(), LogError> {
    let generation = i64::from(generation);
    sqlx::query("UPDATE outbox_log SET generation = ?1")
        .bind(generation)
        .execute(&mut *conn)
        .await
        .map_err(error::log)?;
    sqlx::query("INSERT INTO outbox_generation (generation, from_position) VALUES (?1, ?2)")
        .bind(generation)
        .bind(highest + 1)
        .execute(&mut *conn)
        .await
        .map_err(error::log)?;
    // It has no row before the first event, and no key.
    sqlx::query("DELETE FROM sqlite_sequence WHERE name = 'outbox_event'")
        .execute(&mut *conn)
        .await
        .map_err(error::log)?;
    sqlx::query("INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox_event', ?1)")
        .bind(highest)
        .execute(conn)
        .await
        .map_err(error::log)?;
    Ok(())
}
