//! Reading.

use chrono::{DateTime, Utc};
use outbox_core::{
    event::{LaneSet, RecordedEvent, Sequence},
    log::{LogError, LogErrorKind, LogIdentity, Page, Track},
};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{Inner, cursor::Place, error, schema};
use crate::{
    generations::Generations,
    stored::{self, Columns, Decoder},
};

const IDENTITY: &str = "SELECT id, lanes, generation, schema_version FROM outbox_log";

/// One row a generation. `sqlite_sequence` has no row before the first event, and is behind the events where these were
/// brought in from elsewhere.
const STATE: &str = "SELECT id, lanes, l.generation, schema_version, \
    max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox_event'), 0), \
        coalesce((SELECT position FROM outbox_event ORDER BY position DESC LIMIT 1), 0)) AS head, \
    g.generation AS begun, g.from_position FROM outbox_log AS l CROSS JOIN outbox_generation AS g";

/// Payloads of lanes that nobody asked for stay in the database.
const PAGE: &str = "SELECT position, lane, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type, \
    CASE WHEN (?1 >> lane) & 1 = 1 THEN payload END AS payload, headers, created_at, unordered \
    FROM outbox_event WHERE position > ?2 AND position <= ?3 ORDER BY position LIMIT ?4";

/// A page a track. All end at the same head, so that tracks which reach it stand at one place.
pub(super) async fn read(log: &Inner, tracks: &[Track], limit: usize) -> Result<Vec<Page>, LogError> {
    let places = tracks.iter().map(|track| Ok((Place::parse(&track.cursor)?, track.lanes)));
    let places: Vec<(Place, LaneSet)> = places.collect::<Result<_, LogError>>()?;
    let mut conn = log.read.acquire().await.map_err(error::log)?;
    let state = state(log, &mut conn).await?;
    let mut decoder = state.decoder();
    let mut pages = Vec::with_capacity(places.len());
    for (place, lanes) in places {
        let after = place.within(&state)?;
        pages.push(page(&mut conn, &state, &mut decoder, after, lanes, limit).await?);
    }
    Ok(pages)
}

async fn page(
    conn: &mut SqliteConnection,
    state: &State,
    decoder: &mut Decoder,
    after: u64,
    lanes: LaneSet,
    limit: usize,
) -> Result<Page, LogError> {
    let rows = sqlx::query(PAGE)
        .bind(lanes.mask() as i64)
        .bind(after as i64)
        .bind(state.head as i64)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(conn)
        .await
        .map_err(error::log)?;
    let (mut next, mut events) = (after, Vec::with_capacity(rows.len()));
    for row in &rows {
        let columns = columns(row)?;
        next = columns.position;
        if lanes.contains(columns.lane) {
            events.push(decoder.event(&columns)?);
        }
    }
    let caught_up = rows.len() < limit || next == state.head;
    // Positions of removed events are passed as well.
    let next = if caught_up { state.head } else { next };
    Ok(Page { events, next: Place::at(next, state).to_cursor(), caught_up })
}

/// The events behind a sequence, for people.
pub(super) async fn tail(log: &Inner, after: Option<Sequence>, limit: usize) -> Result<Vec<RecordedEvent>, LogError> {
    let mut conn = log.read.acquire().await.map_err(error::log)?;
    let state = state(log, &mut conn).await?;
    let mut decoder = state.decoder();
    let all = LaneSet::all(state.identity.lanes);
    let after = after.map_or(0, |sequence| state.last_at_or_before(sequence));
    Ok(page(&mut conn, &state, &mut decoder, after, all, limit).await?.events)
}

/// What the file says of the log.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) identity: LogIdentity,
    pub(super) generations: Generations,
    /// The highest position committed.
    pub(super) head: u64,
}

impl State {
    pub(super) fn decoder(&self) -> Decoder {
        Decoder::new(self.identity.id, self.generations.clone())
    }

    /// The highest position whose event, if there is one, has this sequence or a lower one.
    pub(super) fn last_at_or_before(&self, sequence: Sequence) -> u64 {
        let end = self.generations.end_of(sequence.generation()).unwrap_or(u64::MAX);
        sequence.position().min(end - 1)
    }
}

/// # Errors
/// As [`identity`].
pub(super) async fn state(log: &Inner, conn: &mut SqliteConnection) -> Result<State, LogError> {
    let rows = sqlx::query(STATE).fetch_all(conn).await.map_err(error::log)?;
    let first = rows.first().ok_or_else(no_row)?;
    let head: i64 = first.try_get("head").map_err(error::log)?;
    let generation = |row: &SqliteRow| Ok((row.try_get("begun")?, row.try_get("from_position")?));
    let generations: Vec<(i64, i64)> =
        rows.iter().map(generation).collect::<Result<_, sqlx::Error>>().map_err(error::log)?;
    Ok(State { identity: identity_of(log, first)?, generations: Generations::parse(generations)?, head: head as u64 })
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

/// The event in the first columns of a row, in the order of [`PAGE`].
pub(super) fn columns(row: &SqliteRow) -> Result<Columns<'_>, LogError> {
    let numbers =
        || -> Result<(i64, i64, i64), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(10)?)) };
    let (position, lane, micros) = numbers().map_err(error::log)?;
    let (lane, created_at) = (stored::lane(lane)?, DateTime::from_timestamp_micros(micros));
    let created_at = created_at.ok_or_else(|| stored::corrupt(format!("the time at position {position} is none")))?;
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
            created_at,
            unordered: row.try_get(11)?,
        })
    };
    columns().map_err(error::log)
}

/// A time of the consumers' tables.
///
/// # Errors
/// [`LogErrorKind::Corrupt`] when it is none.
pub(super) fn time(milliseconds: i64) -> Result<DateTime<Utc>, LogError> {
    let time = DateTime::from_timestamp_millis(milliseconds);
    time.ok_or_else(|| stored::corrupt(format!("{milliseconds} milliseconds are no time")))
}
