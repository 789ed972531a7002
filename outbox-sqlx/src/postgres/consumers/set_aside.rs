//! What operators see and do of the events that were set aside.

use outbox_core::{
    event::Sequence,
    log::{ConsumerName, DiscardedEvent, LogError, LogErrorKind, ParkedEvent, Redrive},
};
use sqlx::{PgConnection, Row as _, SqlStr, postgres::PgRow};

use super::{
    super::{Inner, SchemaName, error, reader},
    generations, sql, storable,
};
use crate::{
    parked::{self, ParkedColumns},
    refusals::{check_reason, unknown},
    stored::{self, Columns, Decoder},
};

#[derive(Debug)]
pub(super) struct Sql {
    parked: SqlStr,
    discarded: SqlStr,
    redrive: SqlStr,
    discard: SqlStr,
    known: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let sql = |text: &str| sql(schema, text);
        // Positions are issued once, so their order is that of the sequences.
        let list = |table: &str, more: &str| {
            let columns = columns("p");
            sql(&format!(
                "SELECT {columns}{more} FROM @schema@.{table} AS p
                WHERE p.consumer = $1 AND p.position > $2 ORDER BY p.position LIMIT $3"
            ))
        };
        Self {
            parked: list("outbox_parked", ""),
            discarded: list("outbox_discarded", ", p.discard_reason, p.discarded_at"),
            // In one order, against deadlocks.
            redrive: sql("WITH chosen AS MATERIALIZED (
                    SELECT b.lane_key FROM @schema@.outbox_blocked AS b
                    WHERE b.consumer = $1 AND EXISTS (
                        SELECT FROM @schema@.outbox_parked AS p
                        WHERE p.consumer = $1 AND p.lane_key = b.lane_key
                            AND p.position = coalesce($2, p.position) AND p.generation = coalesce($3, p.generation)
                            AND p.aggregate_type = coalesce($4, p.aggregate_type)
                            AND p.aggregate_id = coalesce($5, p.aggregate_id)
                    )
                    ORDER BY b.lane_key FOR UPDATE OF b
                )
                UPDATE @schema@.outbox_blocked AS b SET
                    requested_at = coalesce(b.requested_at, clock_timestamp()),
                    asked_since = CASE WHEN b.asked_since IS NOT NULL THEN true END
                FROM chosen WHERE b.consumer = $1 AND b.lane_key = chosen.lane_key"),
            discard: sql("SELECT @schema@.outbox_discard($1, $2, $3, $4)"),
            known: sql("SELECT EXISTS (SELECT FROM @schema@.outbox_consumer WHERE name = $1)"),
        }
    }
}

/// Those of an event and of why it is parked, in the order that [`parked_event`] expects.
pub(super) fn columns(table: &str) -> String {
    const PARKED: [&str; 5] = ["state", "reason", "attempts", "parked_at", "retry_at"];
    let columns = EVENT.iter().chain(&PARKED).map(|column| format!("{table}.{column}"));
    columns.collect::<Vec<_>>().join(", ")
}

/// In the order that [`event_columns`] expects.
pub(super) const EVENT: [&str; 12] = [
    "position",
    "lane",
    "id",
    "aggregate_type",
    "aggregate_id",
    "ordering_key",
    "event_type",
    "content_type",
    "payload",
    "headers",
    "created_at",
    "unordered",
];

pub(super) fn event_columns(row: &PgRow) -> Result<Columns<'_>, LogError> {
    let (position, lane): (i64, i16) = (row.try_get(0).map_err(error::log)?, row.try_get(1).map_err(error::log)?);
    let lane = stored::lane(i64::from(lane))?;
    let columns = || -> Result<_, sqlx::Error> {
        Ok(Columns {
            position: position as u64,
            lane,
            id: row.try_get(2)?,
            aggregate_type: row.try_get(3)?,
            aggregate_id: row.try_get(4)?,
            ordering_key: row.try_get(5)?,
            event_type: row.try_get(6)?,
            content_type: row.try_get(7)?,
            payload: row.try_get(8)?,
            headers: row.try_get(9)?,
            created_at: row.try_get(10)?,
            unordered: row.try_get(11)?,
        })
    };
    columns().map_err(error::log)
}

pub(super) fn parked_event(decoder: &mut Decoder, row: &PgRow) -> Result<ParkedEvent, LogError> {
    let event = event_columns(row)?;
    let columns = || -> Result<_, sqlx::Error> {
        Ok(ParkedColumns {
            event,
            state: row.try_get(12)?,
            reason: row.try_get(13)?,
            attempts: row.try_get(14)?,
            parked_at: row.try_get(15)?,
            retry_at: row.try_get(16)?,
        })
    };
    parked::event(decoder, columns().map_err(error::log)?)
}

pub(in super::super) async fn parked(
    log: &Inner,
    consumer: &ConsumerName,
    after: Option<Sequence>,
    limit: usize,
) -> Result<Vec<ParkedEvent>, LogError> {
    let (rows, mut decoder) = rows(log, &log.consumers.set_aside.parked, consumer, after, limit).await?;
    rows.iter().map(|row| parked_event(&mut decoder, row)).collect()
}

pub(in super::super) async fn discarded(
    log: &Inner,
    consumer: &ConsumerName,
    after: Option<Sequence>,
    limit: usize,
) -> Result<Vec<DiscardedEvent>, LogError> {
    let (rows, mut decoder) = rows(log, &log.consumers.set_aside.discarded, consumer, after, limit).await?;
    let event = |row: &PgRow| {
        let parked = parked_event(&mut decoder, row)?;
        let discard_reason = row.try_get(17).map_err(error::log)?;
        Ok(DiscardedEvent { parked, discard_reason, discarded_at: row.try_get(18).map_err(error::log)? })
    };
    rows.iter().map(event).collect()
}

async fn rows(
    log: &Inner,
    sql: &SqlStr,
    consumer: &ConsumerName,
    after: Option<Sequence>,
    limit: usize,
) -> Result<(Vec<PgRow>, Decoder), LogError> {
    let mut conn = log.pool.acquire().await.map_err(error::log)?;
    let id = reader::identity(log, &mut conn).await?.id;
    known(log, &mut conn, consumer).await?;
    let rows = sqlx::query(sql.clone())
        .bind(consumer.as_str())
        .bind(after.map_or(0, |after| after.position() as i64))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *conn)
        .await
        .map_err(error::log)?;
    // After the rows, so that it knows the generation of each.
    Ok((rows, Decoder::new(id, generations(log, &mut conn).await?)))
}

/// # Errors
/// [`LogErrorKind::UnknownConsumer`].
pub(super) async fn known(log: &Inner, conn: &mut PgConnection, consumer: &ConsumerName) -> Result<(), LogError> {
    let known: bool = sqlx::query_scalar(log.consumers.set_aside.known.clone())
        .bind(consumer.as_str())
        .fetch_one(conn)
        .await
        .map_err(error::log)?;
    if known { Ok(()) } else { Err(unknown(consumer)) }
}

pub(in super::super) async fn redrive(log: &Inner, consumer: &ConsumerName, which: &Redrive) -> Result<u64, LogError> {
    let (mut event, mut aggregate) = (None, None);
    match which {
        Redrive::All => {}
        Redrive::Event(sequence) => event = Some(*sequence),
        Redrive::Aggregate { aggregate_type, aggregate_id } => {
            aggregate = Some((storable(aggregate_type), storable(aggregate_id)));
        }
        other => {
            let message = format!("a PostgreSQL log cannot redrive {other:?}; use a newer library");
            return Err(LogError::new(LogErrorKind::Incompatible, message));
        }
    }
    let mut conn = log.pool.acquire().await.map_err(error::log)?;
    reader::identity(log, &mut conn).await?;
    known(log, &mut conn, consumer).await?;
    let asked = sqlx::query(log.consumers.set_aside.redrive.clone())
        .bind(consumer.as_str())
        .bind(event.map(|sequence| sequence.position() as i64))
        .bind(event.map(|sequence| i32::from(sequence.generation())))
        .bind(aggregate.as_ref().map(|(kind, _)| kind.as_ref()))
        .bind(aggregate.as_ref().map(|(_, id)| id.as_ref()))
        .execute(&mut *conn)
        .await
        .map_err(error::log)?;
    Ok(asked.rows_affected())
}

pub(in super::super) async fn discard(
    log: &Inner,
    consumer: &ConsumerName,
    sequence: Sequence,
    reason: &str,
) -> Result<bool, LogError> {
    check_reason(reason)?;
    let mut conn = log.pool.acquire().await.map_err(error::log)?;
    reader::identity(log, &mut conn).await?;
    known(log, &mut conn, consumer).await?;
    sqlx::query_scalar(log.consumers.set_aside.discard.clone())
        .bind(consumer.as_str())
        .bind(sequence.position() as i64)
        .bind(i32::from(sequence.generation()))
        .bind(storable(reason).as_ref())
        .fetch_one(&mut *conn)
        .await
        .map_err(error::log)
}
