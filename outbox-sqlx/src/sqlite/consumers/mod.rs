//! Consumers, their members and lanes, their checkpoints, their parked events.
//!
//! Every write is in an immediate transaction, so nobody else writes between the look at the member's row and the write
//! that depends on it. A lane that is owned has its place in the newest checkpoint of its owner, one that nobody owns in
//! `outbox_lane`, or else it is where the consumer starts; whoever moves a lane moves its place in the same transaction.

mod checkpoints;
mod membership;
mod operators;
mod parking;
mod places;
mod redriving;
mod registration;
mod roster;
mod set_aside;
mod status;

use chrono::Utc;
use outbox_core::{
    event::LaneSet,
    log::{Fence, LogError, LogErrorKind},
};
use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};

pub(super) use self::{
    checkpoints::{checkpoint, progress},
    membership::{join, leave, release, renew},
    operators::{consumers, drop_consumer, names, set_paused},
    parking::{blocked_keys, park},
    redriving::{due_parked, redriven},
    registration::register,
    roster::{Roster, Trust, start_over},
    set_aside::{discard, discarded, parked, redrive},
    status::event_status,
};
use super::{Inner, error};
use crate::refusals::fenced;

/// Nobody else writes while it is open.
pub(super) async fn begin(log: &Inner) -> Result<Transaction<'static, Sqlite>, LogError> {
    begin_with(&log.write, "BEGIN IMMEDIATE").await
}

/// All that is read in it was true at one time.
async fn begin_reading(log: &Inner) -> Result<Transaction<'static, Sqlite>, LogError> {
    begin_with(&log.read, "BEGIN").await
}

/// In a task of its own, which ends a `BEGIN` that its caller dropped: sqlx 0.9.0 forgets it, and the pool would lend the
/// connection to others in the middle of that transaction (sqlx #4393).
async fn begin_with(pool: &SqlitePool, statement: &'static str) -> Result<Transaction<'static, Sqlite>, LogError> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with(statement).await }).await;
    let stopping =
        |stopping| LogError::new(LogErrorKind::Unavailable, "the runtime is shutting down").with_source(stopping);
    begun.map_err(stopping)?.map_err(error::log)
}

/// The lanes of the member whose fence this is.
///
/// # Errors
/// [`LogErrorKind::Fenced`] when its membership is over.
async fn lanes_of(conn: &mut SqliteConnection, fence: &Fence) -> Result<LaneSet, LogError> {
    let sql = "SELECT lanes FROM outbox_member WHERE consumer = ?1 AND member = ?2 AND epoch = ?3";
    let mask: Option<i64> = sqlx::query_scalar(sql)
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .fetch_optional(conn)
        .await
        .map_err(error::log)?;
    mask.map(|mask| LaneSet::from_mask(mask as u64)).ok_or_else(|| fenced(fence))
}

/// In milliseconds, as the consumers' tables have it. All processes that use the file share this clock.
pub(super) fn now() -> i64 {
    Utc::now().timestamp_millis()
}
