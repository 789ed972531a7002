//! Consumers, their members and their checkpoints. Every write is in an immediate transaction, so nobody else writes
//! between the look at the member's row and the write that depends on it.

use std::time::Duration;

use outbox_core::{
    event::LaneSet,
    log::{Assignment, ConsumerName, Cursor, Fence, LogError, LogErrorKind, MemberId, Progress, StartAt},
};
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::{Inner, cursor::Place, error, reader};

const NEXT_EPOCH: &str = "UPDATE outbox_consumer SET epoch = epoch + 1 WHERE name = ?1 RETURNING epoch";

const LIVE_OTHERS: &str = "SELECT count(*) FROM outbox_member \
    WHERE consumer = ?1 AND member <> ?2 AND expires > CAST(unixepoch('subsec') * 1000 AS INTEGER)";

const ADD_MEMBER: &str = "INSERT INTO outbox_member (consumer, member, epoch, expires) \
    VALUES (?1, ?2, ?3, CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?4)";

const OWN_LANE: &str = "INSERT INTO outbox_lane (consumer, lane, member, epoch) VALUES (?1, ?2, ?3, ?4) \
    ON CONFLICT (consumer, lane) DO UPDATE SET member = excluded.member, epoch = excluded.epoch";

const LAST_CHECKPOINT: &str = "SELECT cursor FROM outbox_checkpoint WHERE consumer = ?1 ORDER BY id DESC LIMIT 1";

const RENEW: &str = "UPDATE outbox_member SET expires = CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?4 \
    WHERE consumer = ?1 AND member = ?2 AND epoch = ?3";

const CHECKPOINT: &str = "INSERT INTO outbox_checkpoint (consumer, member, epoch, cursor, position) \
    SELECT consumer, member, epoch, ?4, ?5 FROM outbox_member WHERE consumer = ?1 AND member = ?2 AND epoch = ?3";

const TRIM: &str = "DELETE FROM outbox_checkpoint WHERE consumer = ?1 AND id <= ?2 - 1000";

const PROGRESS: &str = "SELECT coalesce( \
        (SELECT cursor FROM outbox_checkpoint WHERE consumer = ?1 ORDER BY id DESC LIMIT 1), start_cursor), \
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox_event'), 0) \
    FROM outbox_consumer WHERE name = ?1";

pub(super) async fn register(log: &Inner, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
    let mut tx = begin(log).await?;
    let state = reader::state(log, &mut tx).await?;
    let position = if start == StartAt::End { state.head } else { 0 };
    sqlx::query("INSERT INTO outbox_consumer (name, start_cursor) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
        .bind(consumer.as_str())
        .bind(Place { log: state.identity.id, position }.to_cursor().as_text())
        .execute(&mut *tx)
        .await
        .map_err(error::log)?;
    tx.commit().await.map_err(error::log)
}

pub(super) async fn join(
    log: &Inner,
    consumer: &ConsumerName,
    member: MemberId,
    lease: Duration,
) -> Result<Option<Assignment>, LogError> {
    let mut tx = begin(log).await?;
    let lanes = LaneSet::all(reader::identity(log, &mut tx).await?.lanes);
    let start: Option<String> = sqlx::query_scalar("SELECT start_cursor FROM outbox_consumer WHERE name = ?1")
        .bind(consumer.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(error::log)?;
    let start = start.ok_or_else(|| unknown(consumer))?;
    let others: i64 = sqlx::query_scalar(LIVE_OTHERS)
        .bind(consumer.as_str())
        .bind(member.0)
        .fetch_one(&mut *tx)
        .await
        .map_err(error::log)?;
    if others > 0 {
        return Ok(None);
    }
    let epoch = take_over(&mut tx, consumer, member, lanes, lease).await.map_err(error::log)?;
    let last: Option<String> = sqlx::query_scalar(LAST_CHECKPOINT)
        .bind(consumer.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(error::log)?;
    tx.commit().await.map_err(error::log)?;
    tracing::info!(%consumer, member = %member.0, epoch, "took over all lanes");
    Ok(Some(Assignment {
        fence: Fence { consumer: consumer.clone(), member, epoch: epoch as u64 },
        lanes,
        cursor: Cursor::from_text(last.unwrap_or(start)),
    }))
}

async fn take_over(
    conn: &mut SqliteConnection,
    consumer: &ConsumerName,
    member: MemberId,
    lanes: LaneSet,
    lease: Duration,
) -> Result<i64, sqlx::Error> {
    let epoch: i64 = sqlx::query_scalar(NEXT_EPOCH).bind(consumer.as_str()).fetch_one(&mut *conn).await?;
    sqlx::query("DELETE FROM outbox_member WHERE consumer = ?1").bind(consumer.as_str()).execute(&mut *conn).await?;
    sqlx::query(ADD_MEMBER)
        .bind(consumer.as_str())
        .bind(member.0)
        .bind(epoch)
        .bind(milliseconds(lease))
        .execute(&mut *conn)
        .await?;
    for lane in lanes.iter() {
        sqlx::query(OWN_LANE)
            .bind(consumer.as_str())
            .bind(i64::from(lane.get()))
            .bind(member.0)
            .bind(epoch)
            .execute(&mut *conn)
            .await?;
    }
    Ok(epoch)
}

pub(super) async fn renew(log: &Inner, fence: &Fence, lease: Duration) -> Result<(), LogError> {
    let renewed = fence_of(RENEW, fence).bind(milliseconds(lease)).execute(&log.write).await.map_err(error::log)?;
    if renewed.rows_affected() == 0 { Err(fenced(fence)) } else { Ok(()) }
}

pub(super) async fn leave(log: &Inner, fence: &Fence) -> Result<(), LogError> {
    let mut tx = begin(log).await?;
    let gone = "DELETE FROM outbox_member WHERE consumer = ?1 AND member = ?2 AND epoch = ?3";
    let gone = fence_of(gone, fence).execute(&mut *tx).await.map_err(error::log)?;
    if gone.rows_affected() == 0 {
        return Err(fenced(fence));
    }
    let freed = "DELETE FROM outbox_lane WHERE consumer = ?1 AND member = ?2 AND epoch = ?3";
    fence_of(freed, fence).execute(&mut *tx).await.map_err(error::log)?;
    tx.commit().await.map_err(error::log)
}

pub(super) async fn checkpoint(log: &Inner, fence: &Fence, cursor: &Cursor) -> Result<(), LogError> {
    let place = Place::parse(cursor)?;
    let mut tx = begin(log).await?;
    let written = fence_of(CHECKPOINT, fence)
        .bind(cursor.as_text())
        .bind(place.position as i64)
        .execute(&mut *tx)
        .await
        .map_err(error::log)?;
    if written.rows_affected() == 0 {
        return Err(fenced(fence));
    }
    sqlx::query(TRIM)
        .bind(fence.consumer.as_str())
        .bind(written.last_insert_rowid())
        .execute(&mut *tx)
        .await
        .map_err(error::log)?;
    tx.commit().await.map_err(error::log)
}

pub(super) async fn progress(log: &Inner, consumer: &ConsumerName) -> Result<Progress, LogError> {
    let row: Option<(String, i64)> =
        sqlx::query_as(PROGRESS).bind(consumer.as_str()).fetch_optional(&log.read).await.map_err(error::log)?;
    let (cursor, head) = row.ok_or_else(|| unknown(consumer))?;
    let cursor = Cursor::from_text(cursor);
    Ok(Progress { position: Place::parse(&cursor)?.position, head: head as u64, cursor })
}

/// In a task of its own, which ends a `BEGIN` that its caller dropped: sqlx 0.9.0 forgets it, and the pool would lend the
/// connection to others in the middle of that transaction (sqlx #4393).
async fn begin(log: &Inner) -> Result<Transaction<'static, Sqlite>, LogError> {
    let pool = log.write.clone();
    let begun = tokio::spawn(async move { pool.begin_with("BEGIN IMMEDIATE").await }).await;
    let stopping =
        |stopping| LogError::new(LogErrorKind::Unavailable, "the runtime is shutting down").with_source(stopping);
    begun.map_err(stopping)?.map_err(error::log)
}

/// A statement whose first three parameters are a fence.
fn fence_of<'q>(sql: &'static str, fence: &'q Fence) -> sqlx::query::Query<'q, Sqlite, sqlx::sqlite::SqliteArguments> {
    sqlx::query(sql).bind(fence.consumer.as_str()).bind(fence.member.0).bind(fence.epoch as i64)
}

fn milliseconds(lease: Duration) -> i64 {
    i64::try_from(lease.as_millis()).unwrap_or(i64::from(u32::MAX))
}

fn fenced(fence: &Fence) -> LogError {
    let Fence { consumer, epoch, .. } = fence;
    let message = format!("epoch {epoch} of consumer {consumer} is over: another member owns its lanes; join again");
    LogError::new(LogErrorKind::Fenced, message)
}

fn unknown(consumer: &ConsumerName) -> LogError {
    let message = format!("consumer {consumer} was never registered; call `register` first");
    LogError::new(LogErrorKind::UnknownConsumer, message)
}
