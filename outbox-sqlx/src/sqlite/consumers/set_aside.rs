//! What operators see and do of the events that were set aside.

use outbox_core::{
    event::Sequence,
    log::{ConsumerName, DiscardedEvent, LogError, LogErrorKind, ParkedEvent, Redrive},
};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{
        Inner, error,
        reader::{self, time},
    },
    begin, now,
};
use crate::{
    parked::{self, ParkedColumns},
    refusals::{check_reason, unknown},
    stored::Decoder,
};

/// Of a parked or discarded event: first the event, in the order of [`reader::columns`].
macro_rules! parked_columns {
    () => {
        "p.position, p.lane, p.id, p.aggregate_type, p.aggregate_id, p.ordering_key, p.event_type, p.content_type, \
        p.payload, p.headers, p.created_at, p.unordered, p.state, p.reason, p.attempts, p.parked_at, p.retry_at"
    };
}
pub(super) use parked_columns;

const PARKED: &str = concat!(
    "SELECT ",
    parked_columns!(),
    " FROM outbox_parked AS p WHERE p.consumer = ?1 AND (p.generation, p.position) > (?2, ?3) ORDER BY p.position LIMIT ?4"
);

const DISCARDED: &str = concat!(
    "SELECT ",
    parked_columns!(),
    ", p.discard_reason, p.discarded_at FROM outbox_discarded AS p \
    WHERE p.consumer = ?1 AND (p.generation, p.position) > (?2, ?3) ORDER BY p.position LIMIT ?4"
);

macro_rules! request {
    ($which:literal) => {
        concat!(
            "UPDATE outbox_blocked SET requested_at = ?2, asked_since = CASE WHEN asked_since IS NOT NULL THEN 1 END \
            WHERE consumer = ?1 AND lane_key IN (SELECT lane_key FROM outbox_parked WHERE consumer = ?1",
            $which,
            ")"
        )
    };
}

const REQUEST_ALL: &str = request!("");
const REQUEST_EVENT: &str = request!(" AND generation = ?3 AND position = ?4");
const REQUEST_AGGREGATE: &str = request!(" AND aggregate_type = ?3 AND aggregate_id = ?4");

/// One that was given up before, and was read again since then, is given up anew.
const GIVE_UP: &str = concat!(
    "INSERT OR REPLACE INTO outbox_discarded (consumer, generation, lane_key, position, lane, id, aggregate_type, \
    aggregate_id, ordering_key, event_type, content_type, payload, headers, created_at, unordered, state, reason, \
    attempts, parked_at, retry_at, discard_reason, discarded_at) SELECT consumer, generation, lane_key, ",
    parked_columns!(),
    ", ?4, ?5 FROM outbox_parked AS p WHERE consumer = ?1 AND generation = ?2 AND position = ?3 RETURNING lane_key"
);

const UNPARK: &str = "DELETE FROM outbox_parked WHERE consumer = ?1 AND position = ?2";

const UNBLOCK: &str = "DELETE FROM outbox_blocked WHERE consumer = ?1 AND lane_key = ?2 \
    AND NOT EXISTS (SELECT 1 FROM outbox_parked WHERE consumer = ?1 AND lane_key = ?2)";

pub(in super::super) async fn parked(
    log: &Inner,
    consumer: &ConsumerName,
    after: Option<Sequence>,
    limit: usize,
) -> Result<Vec<ParkedEvent>, LogError> {
    let (rows, mut decoder) = rows(log, PARKED, consumer, after, limit).await?;
    rows.iter().map(|row| parked_event(&mut decoder, row)).collect()
}

pub(in super::super) async fn discarded(
    log: &Inner,
    consumer: &ConsumerName,
    after: Option<Sequence>,
    limit: usize,
) -> Result<Vec<DiscardedEvent>, LogError> {
    let (rows, mut decoder) = rows(log, DISCARDED, consumer, after, limit).await?;
    let event = |row: &SqliteRow| {
        let parked = parked_event(&mut decoder, row)?;
        let discard_reason = row.try_get(17).map_err(error::log)?;
        Ok(DiscardedEvent { parked, discard_reason, discarded_at: time(row.try_get(18).map_err(error::log)?)? })
    };
    rows.iter().map(event).collect()
}

async fn rows(
    log: &Inner,
    sql: &'static str,
    consumer: &ConsumerName,
    after: Option<Sequence>,
    limit: usize,
) -> Result<(Vec<SqliteRow>, Decoder), LogError> {
    let mut conn = log.read.acquire().await.map_err(error::log)?;
    let state = reader::state(log, &mut conn).await?;
    known(&mut conn, consumer).await?;
    let rows = sqlx::query(sql)
        .bind(consumer.as_str())
        .bind(after.map_or(0, |after| i64::from(after.generation())))
        .bind(after.map_or(0, |after| after.position() as i64))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *conn)
        .await
        .map_err(error::log)?;
    Ok((rows, state.decoder()))
}

/// # Errors
/// [`LogErrorKind::UnknownConsumer`].
pub(super) async fn known(conn: &mut SqliteConnection, consumer: &ConsumerName) -> Result<(), LogError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM outbox_consumer WHERE name = ?1)";
    let known = sqlx::query_scalar(sql).bind(consumer.as_str()).fetch_one(conn).await.map_err(error::log)?;
    if known { Ok(()) } else { Err(unknown(consumer)) }
}

/// The event in a row whose columns are [`parked_columns`].
pub(super) fn parked_event(decoder: &mut Decoder, row: &SqliteRow) -> Result<ParkedEvent, LogError> {
    let columns = || -> Result<(&str, String, i64, i64, Option<i64>), sqlx::Error> {
        Ok((row.try_get(12)?, row.try_get(13)?, row.try_get(14)?, row.try_get(15)?, row.try_get(16)?))
    };
    let (state, reason, attempts, parked_at, retry_at) = columns().map_err(error::log)?;
    let (parked_at, retry_at) = (time(parked_at)?, retry_at.map(time).transpose()?);
    let event = reader::columns(row)?;
    parked::event(decoder, ParkedColumns { event, state, reason, attempts, parked_at, retry_at })
}

pub(in super::super) async fn redrive(log: &Inner, consumer: &ConsumerName, which: &Redrive) -> Result<u64, LogError> {
    let mut tx = begin(log).await?;
    reader::identity(log, &mut tx).await?;
    known(&mut tx, consumer).await?;
    let asked = match which {
        Redrive::All => sqlx::query(REQUEST_ALL).bind(consumer.as_str()).bind(now()),
        Redrive::Event(sequence) => sqlx::query(REQUEST_EVENT)
            .bind(consumer.as_str())
            .bind(now())
            .bind(i64::from(sequence.generation()))
            .bind(sequence.position() as i64),
        Redrive::Aggregate { aggregate_type, aggregate_id } => {
            sqlx::query(REQUEST_AGGREGATE).bind(consumer.as_str()).bind(now()).bind(aggregate_type).bind(aggregate_id)
        }
        other => {
            let message = format!("a SQLite log cannot redrive {other:?}; use a newer library");
            return Err(LogError::new(LogErrorKind::Incompatible, message));
        }
    };
    let asked = asked.execute(&mut *tx).await.map_err(error::log)?.rows_affected();
    tx.commit().await.map_err(error::log)?;
    Ok(asked)
}

pub(in super::super) async fn discard(
    log: &Inner,
    consumer: &ConsumerName,
    sequence: Sequence,
    reason: &str,
) -> Result<bool, LogError> {
    check_reason(reason)?;
    let mut tx = begin(log).await?;
    reader::identity(log, &mut tx).await?;
    known(&mut tx, consumer).await?;
    let lane_key: Option<String> = sqlx::query_scalar(GIVE_UP)
        .bind(consumer.as_str())
        .bind(i64::from(sequence.generation()))
        .bind(sequence.position() as i64)
        .bind(reason)
        .bind(now())
        .fetch_optional(&mut *tx)
        .await
        .map_err(error::log)?;
    let Some(lane_key) = lane_key else { return Ok(false) };
    sqlx::query(UNPARK)
        .bind(consumer.as_str())
        .bind(sequence.position() as i64)
        .execute(&mut *tx)
        .await
        .map_err(error::log)?;
    sqlx::query(UNBLOCK).bind(consumer.as_str()).bind(lane_key).execute(&mut *tx).await.map_err(error::log)?;
    tx.commit().await.map_err(error::log)?;
    Ok(true)
}
