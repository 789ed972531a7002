//! Reading: the statements around [`super::cursor`].

use std::time::Duration;

use outbox_core::{
    event::{Lane, LaneSet},
    log::{Cursor, LogError, LogErrorKind, LogIdentity, Page},
};
use sqlx::{AssertSqlSafe, PgConnection, Row as _, SqlSafeStr, SqlStr, ValueRef as _, postgres::PgRow};

use super::{
    Inner, SchemaName,
    cursor::{Horizon, Place, Reading, Row, Snapshot},
    error, schema, transaction,
};
use crate::stored;

/// How long the WAL of what was read may take to be flushed before the reader sees to it.
const FLUSH_PATIENCE: Duration = Duration::from_millis(1);

/// Every statement has a new snapshot, whatever the pool's default is. The plans are pinned because their statistics
/// cannot be right: a page lies beyond everything that was analysed. Before PostgreSQL 18 a scan that is switched off and
/// used all the same seems so dear that the statement would be compiled, for 100 ms. Settings end with the transaction.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY; \
    SET LOCAL max_parallel_workers_per_gather = 0; \
    SET LOCAL jit = off; \
    SET LOCAL enable_seqscan = off; \
    SET LOCAL enable_bitmapscan = off";

#[derive(Debug)]
pub(super) struct Sql {
    identity: SqlStr,
    state: SqlStr,
    scan: SqlStr,
    late: SqlStr,
    unlisted: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let sql = |text: &str| AssertSqlSafe(schema.qualify(text)).into_sql_str();
        Self {
            identity: sql("SELECT id, lanes, generation, schema_version FROM @schema@.outbox_log"),
            // The order counts: the statement's snapshot, then the head, then the next xid and the LSN. The head is
            // read when `head` is scanned, which is before the row it joins into is projected.
            state: sql("WITH head AS MATERIALIZED (
                    SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS head
                    FROM @schema@.outbox_event_position_seq
                )
                SELECT id, lanes, generation, schema_version, s::text AS snapshot, head,
                    pg_snapshot_xmax(s)::text::bigint + age(pg_snapshot_xmax(s)::xid) AS next_xid,
                    CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END AS lsn,
                    CASE WHEN NOT pg_is_in_recovery()
                        THEN pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn() END AS flushed,
                    pg_current_xact_id_if_assigned() IS NOT NULL AS writing
                FROM pg_current_snapshot() AS s CROSS JOIN head CROSS JOIN @schema@.outbox_log"),
            scan: sql(&format!(
                "SELECT {COLUMNS} FROM @schema@.outbox_event
                WHERE position > $2 AND position <= $3 ORDER BY position LIMIT $4"
            )),
            // Row comparisons, because only the index on (xid, position) can answer them: with `xid = x` the planner
            // may prefer to filter the other one.
            late: sql(&format!(
                "SELECT e.* FROM unnest($2::text[]) AS x CROSS JOIN LATERAL (
                    SELECT {COLUMNS} FROM @schema@.outbox_event
                    WHERE (xid, position) > (x::xid8, $3) AND (xid, position) <= (x::xid8, 9223372036854775807)
                    ORDER BY outbox_event.xid, outbox_event.position LIMIT $4
                ) AS e ORDER BY e.position LIMIT $4"
            )),
            // Skips from one xid in the index to the next.
            unlisted: sql("WITH RECURSIVE found AS (
                    (SELECT xid FROM @schema@.outbox_event WHERE xid >= $1::text::xid8 AND xid < $2::text::xid8
                        ORDER BY xid LIMIT 1)
                    UNION ALL
                    SELECT (SELECT e.xid FROM @schema@.outbox_event AS e
                        WHERE e.xid > found.xid AND e.xid < $2::text::xid8 ORDER BY e.xid LIMIT 1)
                    FROM found WHERE found.xid IS NOT NULL
                )
                SELECT xid FROM found WHERE xid IS NOT NULL"),
        }
    }
}

/// Payloads of lanes that nobody asked for stay in the database.
const COLUMNS: &str = "xid, position, lane, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type, \
    CASE WHEN ($1 >> lane) & 1 = 1 THEN payload END AS payload, headers, created_at";

pub(super) async fn read(log: &Inner, cursor: &Cursor, lanes: LaneSet, limit: usize) -> Result<Page, LogError> {
    let place = Place::parse(cursor)?;
    let mut tx = transaction::begin(&log.pool, BEGIN).await?;
    let state = state(log, &mut tx).await?;
    place.check(state.identity.id, &state.horizon)?;

    let mut reading = place.reading(state.horizon);
    if let Some(span) = reading.unlisted() {
        let found = unlisted(log, &mut tx, span).await?;
        reading.found(found);
    }
    let scanned = scan(log, &mut tx, &reading, lanes, limit).await?;
    let late = late(log, &mut tx, &reading, lanes, limit).await?;
    tx.commit().await.map_err(error::log)?;

    let taken = reading.take(scanned, late, lanes, limit);
    if taken.moved && !state.flushed {
        flush(log, &state.lsn).await?;
    }
    let mut decoder = stored::Decoder::new(&state.identity);
    let events = taken.events.iter().map(|row| decoder.event(&row.columns()?)).collect::<Result<_, LogError>>()?;
    let next = if taken.moved { taken.next.to_cursor() } else { cursor.clone() };
    Ok(Page { events, next, caught_up: taken.caught_up })
}

/// What the database says of the log and of itself.
pub(super) struct State {
    pub(super) identity: LogIdentity,
    pub(super) horizon: Horizon,
    /// Where the WAL ended after the snapshot was taken.
    lsn: String,
    /// Everything up to there is on disk already.
    flushed: bool,
}

/// Wants a transaction of the caller's own: the next xid is read once in a transaction, and again in the next one.
///
/// # Errors
/// As [`identity`], and [`LogErrorKind::ReadOnly`] on a standby.
pub(super) async fn state(log: &Inner, conn: &mut PgConnection) -> Result<State, LogError> {
    let row = sqlx::query(log.reader.state.clone()).fetch_optional(conn).await.map_err(error::log)?;
    let row = row.ok_or_else(no_row)?;
    let identity = identity_of(log, &row)?;
    if get(&row, "writing")? {
        // Its own xid is missing in the snapshot of a transaction that writes.
        let message = "the pool gave a connection that somebody had left in the middle of a transaction; try again";
        return Err(LogError::new(LogErrorKind::Unavailable, message));
    }
    let lsn: Option<String> = get(&row, "lsn")?;
    let lsn = lsn.ok_or_else(|| {
        let message =
            "the server is a standby: its snapshots are not those of the log's writers; read from the primary";
        LogError::new(LogErrorKind::ReadOnly, message)
    })?;
    let flushed: Option<bool> = get(&row, "flushed")?;
    let text: &str = get(&row, "snapshot")?;
    let snapshot = Snapshot::parse(text).ok_or_else(|| stored::corrupt(format!("{text:?} is no snapshot")))?;
    let head: i64 = get(&row, "head")?;
    let next_xid: i64 = get(&row, "next_xid")?;
    let horizon = Horizon { snapshot, head: head as u64, next_xid: next_xid as u64 };
    Ok(State { identity, horizon, lsn, flushed: flushed == Some(true) })
}

/// # Errors
/// [`LogErrorKind::NotMigrated`] or [`LogErrorKind::Incompatible`] when the tables are not those of this library or the
/// lanes not those asked for.
pub(super) async fn identity(log: &Inner, conn: &mut PgConnection) -> Result<LogIdentity, LogError> {
    let row = sqlx::query(log.reader.identity.clone()).fetch_optional(conn).await.map_err(error::log)?;
    identity_of(log, &row.ok_or_else(no_row)?)
}

fn identity_of(log: &Inner, row: &PgRow) -> Result<LogIdentity, LogError> {
    let version: i32 = get(row, "schema_version")?;
    stored::same_version(i64::from(version), i64::from(schema::VERSION))?;
    let (lanes, generation): (i16, i32) = (get(row, "lanes")?, get(row, "generation")?);
    let identity = stored::identity(get(row, "id")?, i64::from(lanes), i64::from(generation))?;
    stored::same_lanes(&identity, log.lanes)?;
    let _already_known = log.frozen.set(identity);
    Ok(identity)
}

fn no_row() -> LogError {
    LogError::new(LogErrorKind::NotMigrated, error::NOT_MIGRATED)
}

pub(super) fn newer() -> LogError {
    LogError::new(LogErrorKind::Incompatible, "the log's tables were made by a newer library: use that one")
}

async fn scan(
    log: &Inner,
    conn: &mut PgConnection,
    reading: &Reading,
    lanes: LaneSet,
    limit: usize,
) -> Result<Vec<StoredRow>, LogError> {
    let Some((start, end)) = reading.scan() else { return Ok(Vec::new()) };
    let rows = sqlx::query(log.reader.scan.clone())
        .bind(lanes.mask() as i64)
        .bind(start as i64)
        .bind(end as i64)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(conn)
        .await
        .map_err(error::log)?;
    rows.into_iter().map(StoredRow::new).collect()
}

async fn late(
    log: &Inner,
    conn: &mut PgConnection,
    reading: &Reading,
    lanes: LaneSet,
    limit: usize,
) -> Result<Vec<StoredRow>, LogError> {
    if reading.stragglers().is_empty() {
        return Ok(Vec::new());
    }
    let xids: Vec<String> = reading.stragglers().iter().map(u64::to_string).collect();
    let rows = sqlx::query(log.reader.late.clone())
        .bind(lanes.mask() as i64)
        .bind(xids)
        .bind(reading.passed() as i64)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(conn)
        .await
        .map_err(error::log)?;
    rows.into_iter().map(StoredRow::new).collect()
}

async fn unlisted(log: &Inner, conn: &mut PgConnection, span: std::ops::Range<u64>) -> Result<Vec<u64>, LogError> {
    let rows = sqlx::query(log.reader.unlisted.clone())
        .bind(span.start.to_string())
        .bind(span.end.to_string())
        .fetch_all(conn)
        .await
        .map_err(error::log)?;
    rows.iter().map(|row| xid(row, 0)).collect()
}

/// Waits until a crash can take nothing back of what ended before `lsn`. Writers that commit asynchronously do not wait
/// for that themselves, and the server may take a while when it has nothing else to do.
///
/// The same goes for a place without events: it counts on transactions that had ended, whose ids a crash could issue
/// again.
async fn flush(log: &Inner, lsn: &str) -> Result<(), LogError> {
    // By now the page was read, which is often long enough.
    if is_flushed(log, lsn).await? {
        return Ok(());
    }
    tokio::time::sleep(FLUSH_PATIENCE).await;
    if is_flushed(log, lsn).await? {
        return Ok(());
    }
    tracing::debug!(lsn, "forcing a flush of the WAL: writers commit asynchronously");
    // A commit that writes something flushes everything before it. Where the session's setting promises more than
    // that, it stays as it is.
    sqlx::query(
        "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true),
            pg_logical_emit_message(true, 'outbox', '')",
    )
    .execute(&log.pool)
    .await
    .map_err(error::log)?;
    if is_flushed(log, lsn).await? {
        return Ok(());
    }
    Err(LogError::new(LogErrorKind::Unavailable, "the server did not flush its WAL; try again later"))
}

async fn is_flushed(log: &Inner, lsn: &str) -> Result<bool, LogError> {
    sqlx::query_scalar("SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn")
        .bind(lsn)
        .fetch_one(&log.pool)
        .await
        .map_err(error::log)
}

/// A row that is decoded only when it is an event of this page.
struct StoredRow {
    xid: u64,
    position: u64,
    lane: Lane,
    row: PgRow,
}

impl StoredRow {
    fn new(row: PgRow) -> Result<Self, LogError> {
        let position: i64 = row.try_get(1).map_err(error::log)?;
        let lane: i16 = row.try_get(2).map_err(error::log)?;
        Ok(Self { xid: xid(&row, 0)?, position: position as u64, lane: stored::lane(i64::from(lane))?, row })
    }

    fn columns(&self) -> Result<stored::Columns<'_>, LogError> {
        let row = &self.row;
        let columns = || -> Result<_, sqlx::Error> {
            Ok(stored::Columns {
                position: self.position,
                lane: self.lane,
                id: row.try_get(3)?,
                aggregate_type: row.try_get(4)?,
                aggregate_id: row.try_get(5)?,
                ordering_key: row.try_get(6)?,
                event_type: row.try_get(7)?,
                content_type: row.try_get(8)?,
                payload: row.try_get(9)?,
                headers: row.try_get(10)?,
                created_at: row.try_get(11)?,
            })
        };
        columns().map_err(error::log)
    }
}

impl Row for StoredRow {
    fn xid(&self) -> u64 {
        self.xid
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn lane(&self) -> Lane {
        self.lane
    }
}

/// `xid8` is a type that sqlx does not know; on the wire it is eight bytes.
fn xid(row: &PgRow, column: usize) -> Result<u64, LogError> {
    let value = row.try_get_raw(column).map_err(error::log)?;
    let bytes = if value.is_null() { None } else { value.as_bytes().ok() };
    let bytes = bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| stored::corrupt("column xid is no xid8".to_owned()))
}

fn get<'r, T>(row: &'r PgRow, column: &str) -> Result<T, LogError>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(column).map_err(error::log)
}
