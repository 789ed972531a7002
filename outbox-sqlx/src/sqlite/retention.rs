//! Removing what every consumer has passed.
//!
//! Parked events are copies and hold nothing back. The file does not shrink: the room is used for new events.

use std::time::{Duration, Instant};

use chrono::Utc;
use outbox_core::log::{ConsumerName, LogError, Pruned, RetentionPolicy};
use sqlx::SqliteConnection;

use super::{
    Inner,
    consumers::{Roster, Trust, begin, names, now},
    error,
    reader::{self, State},
};

/// How many positions one transaction looks at. Writers wait for it, so it is short.
const STEP: u64 = 2_000;

/// About how many bytes of payload one transaction removes, at most one event more: SQLite visits every page of them.
const STEP_BYTES: i64 = 8 * 1_048_576;

/// The event with which the payloads get that large. `length` of a blob does not read it.
const LARGE: &str = "SELECT position FROM (SELECT position, \
    sum(length(payload)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS bytes \
    FROM outbox_event WHERE position > ?1 AND position <= ?2) WHERE bytes >= ?3 ORDER BY position LIMIT 1";

/// The first event that is too young; those behind it stay, whatever time they have.
const TOO_YOUNG: &str = "SELECT position FROM outbox_event WHERE position > ?1 AND position <= ?2 AND created_at >= ?3 \
    ORDER BY position LIMIT 1";

const REMOVE: &str = "DELETE FROM outbox_event WHERE position > ?1 AND position <= ?2";

pub(super) async fn prune(log: &Inner, policy: &RetentionPolicy) -> Result<Pruned, LogError> {
    let mut pruned = Pruned::default();
    for _ in 0..policy.steps.max(1) {
        let begun = Instant::now();
        let step = step(log, policy).await?;
        pruned = Pruned { removed: pruned.removed + step.removed, ..step };
        if !pruned.more {
            break;
        }
        // SQLite queues nobody: writers of other processes look again and again, and the file is free half of the time.
        tokio::time::sleep(begun.elapsed().min(Duration::from_millis(100))).await;
    }
    Ok(pruned)
}

/// One transaction. `removed` counts its events only.
async fn step(log: &Inner, policy: &RetentionPolicy) -> Result<Pruned, LogError> {
    let mut tx = begin(log).await?;
    let state = reader::state(log, &mut tx).await?;
    let low = low(&mut tx, &state).await?;
    let Some((passed, slowest)) = slowest(&mut tx, &state).await? else { return Ok(Pruned::default()) };
    let by_count = policy.keep_events.map_or(state.head, |keep| state.head.saturating_sub(keep));
    let window = by_count.min(low.saturating_add(STEP)).max(low);
    let window = large_in(&mut tx, low, window).await?.unwrap_or(window);
    let let_go = match young_in(&mut tx, policy, low, window).await? {
        Some(young) => young - 1,
        None => window,
    };
    let up_to = let_go.min(passed);
    let removed = remove(&mut tx, low, up_to).await?;
    tx.commit().await.map_err(error::log)?;
    Ok(Pruned {
        removed,
        more: up_to == window && window < by_count,
        held_back_by: (passed.max(low) < let_go).then_some(slowest),
    })
}

/// The position in front of the oldest event.
async fn low(conn: &mut SqliteConnection, state: &State) -> Result<u64, LogError> {
    let sql = "SELECT position - 1 FROM outbox_event ORDER BY position LIMIT 1";
    let low: Option<i64> = sqlx::query_scalar(sql).fetch_optional(conn).await.map_err(error::log)?;
    Ok(low.map_or(state.head, |low| low as u64))
}

/// The consumer that is the furthest behind, and its place; of several the first by name.
async fn slowest(conn: &mut SqliteConnection, state: &State) -> Result<Option<(u64, ConsumerName)>, LogError> {
    let mut slowest: Option<(u64, ConsumerName)> = None;
    for name in names(conn).await? {
        let passed = Roster::load(conn, state, &name, Trust::Checked).await?.lowest();
        if slowest.as_ref().is_none_or(|(lowest, _)| passed < *lowest) {
            slowest = Some((passed, name));
        }
    }
    Ok(slowest)
}

async fn large_in(conn: &mut SqliteConnection, low: u64, window: u64) -> Result<Option<u64>, LogError> {
    let large: Option<i64> = sqlx::query_scalar(LARGE)
        .bind(low as i64)
        .bind(window as i64)
        .bind(STEP_BYTES)
        .fetch_optional(conn)
        .await
        .map_err(error::log)?;
    Ok(large.map(|position| position as u64))
}

async fn young_in(
    conn: &mut SqliteConnection,
    policy: &RetentionPolicy,
    low: u64,
    window: u64,
) -> Result<Option<u64>, LogError> {
    let Some(keep_for) = policy.keep_for else { return Ok(None) };
    let since = i64::try_from(keep_for.as_micros()).ok().and_then(|age| Utc::now().timestamp_micros().checked_sub(age));
    let young: Option<i64> = sqlx::query_scalar(TOO_YOUNG)
        .bind(low as i64)
        .bind(window as i64)
        .bind(since.unwrap_or(i64::MIN))
        .fetch_optional(conn)
        .await
        .map_err(error::log)?;
    Ok(young.map(|position| position as u64))
}

async fn remove(conn: &mut SqliteConnection, low: u64, up_to: u64) -> Result<u64, LogError> {
    let removed =
        sqlx::query(REMOVE).bind(low as i64).bind(up_to as i64).execute(&mut *conn).await.map_err(error::log)?;
    sqlx::query("UPDATE outbox_retention SET low = max(low, ?1), pruned_at = ?2")
        .bind(up_to as i64)
        .bind(now())
        .execute(conn)
        .await
        .map_err(error::log)?;
    Ok(removed.rows_affected())
}
