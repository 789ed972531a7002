//! Reading.

use chrono::DateTime;
use outbox_core::{
    event::LaneSet,
    log::{Cursor, LogError, LogErrorKind, LogIdentity, Page},
};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{Inner, cursor::Place, error, schema};
use crate::stored;

const IDENTITY: &str = "SELECT id, lanes, generation, schema_version FROM outbox_log";

/// `sqlite_sequence` has no row before the first event.
const STATE: &str = "SELECT id, lanes, generation, schema_version, \
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox_event'), 0) AS head FROM outbox_log";

/// Payloads of lanes that nobody asked for stay in the database.
const PAGE: &str = "SELECT position, lane, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type, \
    CASE WHEN (?1 >> lane) & 1 = 1 THEN payload END AS payload, headers, created_at \
    FROM outbox_event WHERE position > ?2 ORDER BY position LIMIT ?3";

pub(super) async fn read(log: &Inner, cursor: &Cursor, lanes: LaneSet, limit: usize) -> Result<Page, LogError> {
    let place = Place::parse(cursor)?;
    let mut conn = log.read.acquire().await.map_err(error::log)?;
    let state = state(log, &mut conn).await?;
    place.check(state.identity.id, state.head)?;
    let rows = sqlx::query(PAGE)
        .bind(lanes.mask() as i64)
        .bind(place.position as i64)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *conn)
        .await
        .map_err(error::log)?;
    drop(conn);

    let (mut next, mut events) = (place, Vec::with_capacity(rows.len()));
    let mut decoder = stored::Decoder::new(&state.identity);
    for row in &rows {
        let columns = columns(row)?;
        next.position = columns.position;
        if lanes.contains(columns.lane) {
            events.push(decoder.event(&columns)?);
        }
    }
    Ok(Page { events, next: next.to_cursor(), caught_up: rows.len() < limit })
}

/// What the file says of the log.
pub(super) struct State {
    pub(super) identity: LogIdentity,
    /// The highest position committed.
    pub(super) head: u64,
}

/// # Errors
/// As [`identity`].
pub(super) async fn state(log: &Inner, conn: &mut SqliteConnection) -> Result<State, LogError> {
    let row = sqlx::query(STATE).fetch_optional(conn).await.map_err(error::log)?.ok_or_else(no_row)?;
    let head: i64 = row.try_get("head").map_err(error::log)?;
    Ok(State { identity: identity_of(log, &row)?, head: head as u64 })
}

/// # Errors
/// [`LogErrorKind::NotMigrated`] or [`LogErrorKind::Incompatible`] when the tables are not those of this library or the
/// lanes not those asked for.
pub(super) async fn identity(log: &Inner, conn: &mut SqliteConnection) -> Result<LogIdentity, LogError> {
    let row = sqlx::query(IDENTITY).fetch_optional(conn).await.map_err(error::log)?.ok_or_else(no_row)?;
    identity_of(log, &row)
}

fn identity_of(log: &Inner, row: &SqliteRow) -> Result<LogIdentity, LogError> {
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(error::log);
    stored::same_version(number("schema_version")?, schema::VERSION)?;
    let id = row.try_get("id").map_err(error::log)?;
    let identity = stored::identity(id, number("lanes")?, number("generation")?)?;
    stored::same_lanes(&identity, log.lanes)?;
    let _already_known = log.frozen.set(identity);
    Ok(identity)
}

fn no_row() -> LogError {
    LogError::new(LogErrorKind::NotMigrated, error::NOT_MIGRATED)
}

fn columns(row: &SqliteRow) -> Result<stored::Columns<'_>, LogError> {
    let numbers =
        || -> Result<(i64, i64, i64), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(10)?)) };
    let (position, lane, micros) = numbers().map_err(error::log)?;
    let (lane, created_at) = (stored::lane(lane)?, DateTime::from_timestamp_micros(micros));
    let created_at = created_at.ok_or_else(|| stored::corrupt(format!("the time at position {position} is none")))?;
    let columns = || -> Result<_, sqlx::Error> {
        Ok(stored::Columns {
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
            created_at,
        })
    };
    columns().map_err(error::log)
}
