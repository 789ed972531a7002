//! Making a consumer known.

use chrono::{DateTime, Utc};
use outbox_core::log::{ConsumerName, LogError, LogErrorKind, StartAt};
use sqlx::SqliteConnection;

use super::{
    super::{Inner, error, reader},
    begin,
    places::cursor,
};

const KNOWN: &str = "SELECT EXISTS (SELECT 1 FROM outbox_consumer WHERE name = ?1)";

const REGISTER: &str = "INSERT INTO outbox_consumer (name, start_cursor, epoch) \
    SELECT ?1, ?2, dropped_epoch FROM outbox_log WHERE true ON CONFLICT DO NOTHING";

pub(in super::super) async fn register(log: &Inner, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
    let mut conn = log.read.acquire().await.map_err(error::log)?;
    reader::identity(log, &mut conn).await?;
    let known = sqlx::query_scalar(KNOWN).bind(consumer.as_str()).fetch_one(&mut *conn).await.map_err(error::log)?;
    if known {
        return Ok(());
    }
    // Before writers have to wait: all events may have to be looked at.
    let first = match start {
        StartAt::Time(time) => Some(before(&mut conn, time).await?),
        _ => None,
    };
    drop(conn);

    let mut tx = begin(log).await?;
    let state = reader::state(log, &mut tx).await?;
    let position = match (start, first) {
        (StartAt::Beginning, _) => 0,
        (StartAt::End, _) => state.head,
        (_, Some(position)) => position,
        (start, None) => {
            let message = format!("a SQLite log cannot start a consumer at {start:?}; use a newer library");
            return Err(LogError::new(LogErrorKind::Incompatible, message));
        }
    };
    sqlx::query(REGISTER)
        .bind(consumer.as_str())
        .bind(cursor(position, &state).as_text())
        .execute(&mut *tx)
        .await
        .map_err(error::log)?;
    tx.commit().await.map_err(error::log)
}

/// The position in front of the first event created at this time or later; the last one if there is none, since what
/// is committed from now on comes behind it.
async fn before(conn: &mut SqliteConnection, time: DateTime<Utc>) -> Result<u64, LogError> {
    let sql = "SELECT coalesce( \
        (SELECT position - 1 FROM outbox_event WHERE created_at >= ?1 ORDER BY position LIMIT 1), \
        (SELECT position FROM outbox_event ORDER BY position DESC LIMIT 1), \
        (SELECT seq FROM sqlite_sequence WHERE name = 'outbox_event'), 0)";
    let position: i64 =
        sqlx::query_scalar(sql).bind(time.timestamp_micros()).fetch_one(conn).await.map_err(error::log)?;
    Ok(position as u64)
}
