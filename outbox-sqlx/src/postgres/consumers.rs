//! Consumers, their members and their checkpoints.
//!
//! Every write of a member names its epoch and holds a lock on the member's row while it writes; a takeover locks that
//! row too, before it looks for the last checkpoint. So a write of the old member either comes before the takeover and is
//! seen by it, or finds no row and does nothing.

use std::time::Duration;

use outbox_core::{
    event::LaneSet,
    log::{Assignment, ConsumerName, Cursor, Fence, LogError, LogErrorKind, MemberId, Progress, StartAt},
};
use sqlx::{AssertSqlSafe, PgConnection, SqlSafeStr, SqlStr};

use super::{Inner, SchemaName, cursor::Place, error, reader, transaction};

#[derive(Debug)]
pub(super) struct Sql {
    register: SqlStr,
    lock_consumer: SqlStr,
    lock_members: SqlStr,
    take_over: SqlStr,
    own_lanes: SqlStr,
    newest_xid: SqlStr,
    last: SqlStr,
    trim: SqlStr,
    renew: SqlStr,
    leave: SqlStr,
    checkpoint: SqlStr,
    progress: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let sql = |text: &str| AssertSqlSafe(schema.qualify(text)).into_sql_str();
        Self {
            register: sql("INSERT INTO @schema@.outbox_consumer (name, start_cursor) VALUES ($1, $2)
                ON CONFLICT DO NOTHING"),
            lock_consumer: sql("SELECT start_cursor FROM @schema@.outbox_consumer WHERE name = $1 FOR NO KEY UPDATE"),
            lock_members: sql("SELECT member <> $2 AND expires > clock_timestamp() FROM @schema@.outbox_member
                WHERE consumer = $1 ORDER BY member FOR UPDATE"),
            take_over: sql("WITH gone AS (
                    DELETE FROM @schema@.outbox_member WHERE consumer = $1 AND member <> $2
                ), raised AS (
                    UPDATE @schema@.outbox_consumer SET epoch = epoch + 1 WHERE name = $1 RETURNING epoch
                )
                INSERT INTO @schema@.outbox_member AS m (consumer, member, epoch, expires)
                SELECT $1, $2, epoch, clock_timestamp() + make_interval(secs => $3) FROM raised
                ON CONFLICT (consumer, member) DO UPDATE SET epoch = excluded.epoch, expires = excluded.expires
                RETURNING m.epoch"),
            own_lanes: sql("INSERT INTO @schema@.outbox_lane (consumer, lane, member, epoch)
                SELECT $1, lane, $2, $3 FROM generate_series(0, $4 - 1) AS lane
                ON CONFLICT (consumer, lane) DO UPDATE SET member = excluded.member, epoch = excluded.epoch"),
            newest_xid: sql("SELECT xid::text FROM @schema@.outbox_event ORDER BY xid DESC LIMIT 1"),
            last: sql("SELECT cursor, id FROM @schema@.outbox_checkpoint WHERE consumer = $1 ORDER BY id DESC LIMIT 1"),
            trim: sql("DELETE FROM @schema@.outbox_checkpoint WHERE consumer = $1 AND id <= $2 - 1000"),
            renew: sql("UPDATE @schema@.outbox_member SET expires = clock_timestamp() + make_interval(secs => $4)
                WHERE consumer = $1 AND member = $2 AND epoch = $3"),
            leave: sql("WITH gone AS (
                    DELETE FROM @schema@.outbox_member WHERE consumer = $1 AND member = $2 AND epoch = $3 RETURNING 1
                ), freed AS (
                    DELETE FROM @schema@.outbox_lane
                    WHERE consumer = $1 AND member = $2 AND epoch = $3 AND EXISTS (SELECT FROM gone)
                )
                SELECT 1 FROM gone"),
            // Trims at both ends, so that a statement never walks over rows deleted long ago; `join` removes what this
            // leaves behind.
            checkpoint: sql("WITH fence AS MATERIALIZED (
                    SELECT 1 FROM @schema@.outbox_member
                    WHERE consumer = $1 AND member = $2 AND epoch = $3 FOR SHARE
                ), written AS (
                    INSERT INTO @schema@.outbox_checkpoint (consumer, member, epoch, cursor, position)
                    SELECT $1, $2, $3, $4, $5 FROM fence RETURNING id
                ), trimmed AS (
                    DELETE FROM @schema@.outbox_checkpoint AS c USING written AS w
                    WHERE c.consumer = $1 AND c.id <= w.id - 1000 AND c.id > w.id - 1100
                )
                SELECT 1 FROM written"),
            progress: sql("SELECT coalesce(
                    (SELECT cursor FROM @schema@.outbox_checkpoint WHERE consumer = $1 ORDER BY id DESC LIMIT 1),
                    start_cursor
                ), (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM @schema@.outbox_event_position_seq)
                FROM @schema@.outbox_consumer WHERE name = $1"),
        }
    }
}

/// Each statement must see what was committed while it waited for a lock.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

pub(super) async fn register(log: &Inner, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
    let mut tx = transaction::begin(&log.pool, BEGIN).await?;
    let place = match start {
        StartAt::End => {
            let state = reader::state(log, &mut tx).await?;
            Place::after(state.identity.id, state.horizon)
        }
        _ => Place::beginning(reader::identity(log, &mut tx).await?.id),
    };
    sqlx::query(log.consumers.register.clone())
        .bind(consumer.as_str())
        .bind(place.to_cursor().as_text())
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
    let mut tx = transaction::begin(&log.pool, BEGIN).await?;
    let newest_xid = newest_xid(log, &mut tx).await?;
    let state = reader::state(log, &mut tx).await?;
    of_this_server(newest_xid, state.horizon.next_xid)?;
    let start: Option<String> = sqlx::query_scalar(log.consumers.lock_consumer.clone())
        .bind(consumer.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(error::log)?;
    let start = start.ok_or_else(|| unknown(consumer))?;
    let others: Vec<bool> = sqlx::query_scalar(log.consumers.lock_members.clone())
        .bind(consumer.as_str())
        .bind(member.0)
        .fetch_all(&mut *tx)
        .await
        .map_err(error::log)?;
    if others.contains(&true) {
        return Ok(None);
    }
    let epoch: i64 = sqlx::query_scalar(log.consumers.take_over.clone())
        .bind(consumer.as_str())
        .bind(member.0)
        .bind(lease.as_secs_f64())
        .fetch_one(&mut *tx)
        .await
        .map_err(error::log)?;
    let lanes = state.identity.lanes;
    sqlx::query(log.consumers.own_lanes.clone())
        .bind(consumer.as_str())
        .bind(member.0)
        .bind(epoch)
        .bind(i32::from(lanes.get()))
        .execute(&mut *tx)
        .await
        .map_err(error::log)?;
    let cursor = last_checkpoint(log, &mut tx, consumer).await?.unwrap_or(start);
    tx.commit().await.map_err(error::log)?;
    tracing::info!(%consumer, member = %member.0, epoch, "took over all lanes");
    Ok(Some(Assignment {
        fence: Fence { consumer: consumer.clone(), member, epoch: epoch as u64 },
        lanes: LaneSet::all(lanes),
        cursor: Cursor::from_text(cursor),
    }))
}

async fn newest_xid(log: &Inner, conn: &mut PgConnection) -> Result<u64, LogError> {
    let newest: Option<String> =
        sqlx::query_scalar(log.consumers.newest_xid.clone()).fetch_optional(conn).await.map_err(error::log)?;
    Ok(newest.and_then(|xid| xid.parse().ok()).unwrap_or(0))
}

/// A log that was moved to another server by dump and restore has rows of transactions that have not been there yet:
/// readers would not see them before the server's own counter has passed them.
fn of_this_server(newest_xid: u64, next_xid: u64) -> Result<(), LogError> {
    if newest_xid < next_xid {
        return Ok(());
    }
    let message = format!(
        "the log has rows of transaction {newest_xid}, but the server is only at {next_xid}: \
         the database was moved here from another server, and the log has to be re-anchored"
    );
    Err(LogError::new(LogErrorKind::BadCursor, message))
}

async fn last_checkpoint(
    log: &Inner,
    conn: &mut PgConnection,
    consumer: &ConsumerName,
) -> Result<Option<String>, LogError> {
    let last: Option<(String, i64)> = sqlx::query_as(log.consumers.last.clone())
        .bind(consumer.as_str())
        .fetch_optional(&mut *conn)
        .await
        .map_err(error::log)?;
    let Some((cursor, id)) = last else { return Ok(None) };
    sqlx::query(log.consumers.trim.clone()).bind(consumer.as_str()).bind(id).execute(conn).await.map_err(error::log)?;
    Ok(Some(cursor))
}

pub(super) async fn renew(log: &Inner, fence: &Fence, lease: Duration) -> Result<(), LogError> {
    let renewed = sqlx::query(log.consumers.renew.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(lease.as_secs_f64())
        .execute(&log.pool)
        .await
        .map_err(error::log)?;
    if renewed.rows_affected() == 0 { Err(fenced(fence)) } else { Ok(()) }
}

pub(super) async fn leave(log: &Inner, fence: &Fence) -> Result<(), LogError> {
    let gone = sqlx::query(log.consumers.leave.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .fetch_optional(&log.pool)
        .await
        .map_err(error::log)?;
    gone.map(drop).ok_or_else(|| fenced(fence))
}

pub(super) async fn checkpoint(log: &Inner, fence: &Fence, cursor: &Cursor) -> Result<(), LogError> {
    let place = Place::parse(cursor)?;
    let written = sqlx::query(log.consumers.checkpoint.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(cursor.as_text())
        .bind(place.position() as i64)
        .fetch_optional(&log.pool)
        .await
        .map_err(error::log)?;
    written.map(drop).ok_or_else(|| fenced(fence))
}

pub(super) async fn progress(log: &Inner, consumer: &ConsumerName) -> Result<Progress, LogError> {
    let row: Option<(String, i64)> = sqlx::query_as(log.consumers.progress.clone())
        .bind(consumer.as_str())
        .fetch_optional(&log.pool)
        .await
        .map_err(error::log)?;
    let (cursor, head) = row.ok_or_else(|| unknown(consumer))?;
    let cursor = Cursor::from_text(cursor);
    Ok(Progress { position: Place::parse(&cursor)?.position(), head: head as u64, cursor })
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
