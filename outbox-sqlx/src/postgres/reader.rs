//! Reading: what the server says of itself and of the log, and the pages of tracks.
//!
//! A look at a log where nothing is new is one statement and one round trip, outside any transaction. Only when there is
//! something to read does [`super::page`] open one. A pooler of transactions has to know prepared statements for that,
//! as PgBouncer does from 1.21.

use outbox_core::log::{LogError, LogErrorKind, LogIdentity, Page, StartAt, Track};
use sqlx::{AssertSqlSafe, PgConnection, Row as _, SqlSafeStr, SqlStr, postgres::PgRow};

use super::{
    Inner, SchemaName,
    cursor::{self, Horizon, Place, Snapshot, Taken},
    error, page, schema,
};
use crate::{generations::Generations, stored};

/// How often the reader asks whether the WAL of what was read is flushed before it sees to it. What is not is mostly that
/// of transactions about to commit, which flush it: asking takes as long as that does. A sleep would take longer than a
/// flush, since timers count in milliseconds.
const ASKED_FOR_FLUSH: usize = 2;

/// How many events one statement of [`start_at`] looks at.
const TIMES_AT_ONCE: i64 = 20_000;

#[derive(Debug)]
pub(super) struct Sql {
    identity: SqlStr,
    state: SqlStr,
    times: SqlStr,
    page: page::Sql,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let sql = |text: &str| AssertSqlSafe(schema.qualify(text)).into_sql_str();
        Self {
            identity: sql("SELECT id, lanes, generation, schema_version FROM @schema@.outbox_log"),
            // The order counts: the statement's snapshot, then the head, then the next xid and the LSN. The head is
            // read when `head` is scanned, which is before the row it joins into is projected.
            //
            // `age` remembers its answer until the transaction ends, and the next xid must not be older than the head;
            // `looked` tells a second look in one transaction, as does the setting that ends with it.
            //
            // `late` orders what it needs no order of: so only the index on (xid, position) can answer it cheaply.
            state: sql("WITH looked AS MATERIALIZED (
                    SELECT coalesce(current_setting('outbox.looked', true), '') = 'yes' AS looked
                ), head AS MATERIALIZED (
                    SELECT @head@ AS head FROM @schema@.outbox_event_position_seq
                )
                SELECT id, lanes, generation, schema_version, s::text AS snapshot, head,
                    pg_snapshot_xmax(s)::text::bigint + age(pg_snapshot_xmax(s)::xid) AS next_xid,
                    CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END AS lsn,
                    CASE WHEN NOT pg_is_in_recovery()
                        THEN pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn() END AS flushed,
                    looked OR pg_current_xact_id_if_assigned() IS NOT NULL AS abandoned,
                    set_config('outbox.looked', 'yes', true) AS marked,
                    ARRAY(SELECT generation::bigint FROM @schema@.outbox_generation ORDER BY generation) AS generations,
                    ARRAY(SELECT from_position FROM @schema@.outbox_generation ORDER BY generation) AS begin_at,
                    EXISTS (
                        SELECT FROM unnest($1::text[]) AS x CROSS JOIN LATERAL (
                            SELECT FROM @schema@.outbox_event
                            WHERE (xid, position) > (x::xid8, 0)
                                AND (xid, position) <= (x::xid8, 9223372036854775807)
                            ORDER BY outbox_event.xid, outbox_event.position LIMIT 1
                        ) AS e WHERE pg_visible_in_snapshot(x::xid8, s)
                    ) AS late
                FROM pg_current_snapshot() AS s CROSS JOIN looked CROSS JOIN head CROSS JOIN @schema@.outbox_log"),
            times: sql("SELECT min(position) FILTER (WHERE created_at >= $3) AS first, max(position) AS last
                FROM (
                    SELECT position, created_at FROM @schema@.outbox_event
                    WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $4
                ) AS e"),
            page: page::Sql::new(schema),
        }
    }
}

pub(super) async fn read(log: &Inner, tracks: &[Track], limit: usize) -> Result<Vec<Page>, LogError> {
    let places = tracks.iter().map(|track| Place::parse(&track.cursor)).collect::<Result<Vec<_>, _>>()?;
    let mut awaited: Vec<u64> = places.iter().flat_map(Place::awaited).collect();
    awaited.sort_unstable();
    awaited.dedup();

    let mut conn = log.pool.acquire().await.map_err(error::log)?;
    let looked = look(log, &mut conn, &awaited).await;
    if looked.as_ref().is_err_and(|error| error.kind() == LogErrorKind::Unavailable) {
        // It may be in the middle of a transaction that somebody has forgotten.
        conn.close_on_drop();
    }
    let (state, late) = looked?;
    for place in &places {
        place.check(state.identity.id, &state.horizon)?;
    }

    let reading = |(place, track): (Place, &Track)| page::Wanted {
        reading: place.reading(state.horizon.clone(), late),
        lanes: track.lanes,
    };
    let wanted: Vec<page::Wanted> = places.into_iter().zip(tracks).map(reading).collect();
    let page::Pages { mut pages, flushed } = if wanted.iter().all(|wanted| wanted.reading.is_empty()) {
        drop(conn);
        let pages = wanted.into_iter().map(|wanted| wanted.reading.nothing()).collect();
        page::Pages { pages, flushed: state.flushed }
    } else {
        let decoder = stored::Decoder::new(state.identity.id, state.generations);
        let lsn = (!state.flushed).then(|| state.lsn.clone());
        page::take(conn, log.reader.page.clone(), page::Request { wanted, limit, decoder, lsn }).await?
    };
    cursor::meet(&mut pages);

    if pages.iter().any(|page| page.moved) && !flushed {
        flush(log, &state.lsn).await?;
    }
    let page = |(taken, track): (Taken<_>, &Track)| Page {
        events: taken.events,
        next: if taken.moved { taken.next.to_cursor() } else { track.cursor.clone() },
        caught_up: taken.caught_up,
    };
    Ok(pages.into_iter().zip(tracks).map(page).collect())
}

/// Where a consumer begins. Wants a transaction of the caller's own at READ COMMITTED, as [`state`] does, and looks at
/// every event up to the one found.
///
/// # Errors
/// As [`state`].
pub(super) async fn start_at(log: &Inner, conn: &mut PgConnection, start: StartAt) -> Result<Place, LogError> {
    let State { identity, horizon, .. } = state(log, conn).await?;
    let time = match start {
        StartAt::End => return Ok(Place::after(identity.id, horizon)),
        StartAt::Time(time) => time,
        _ => return Ok(Place::beginning(identity.id)),
    };
    // As for pages: what is known of the table may be old.
    let plans = "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)";
    sqlx::query(plans).execute(&mut *conn).await.map_err(error::log)?;
    let mut seen = 0;
    loop {
        // A transaction that commits meanwhile is seen here and not in the horizon, or the other way round: its events
        // come in either case, as stragglers or behind the place.
        let (first, last): (Option<i64>, Option<i64>) = sqlx::query_as(log.reader.times.clone())
            .bind(seen)
            .bind(horizon.head as i64)
            .bind(time)
            .bind(TIMES_AT_ONCE)
            .fetch_one(&mut *conn)
            .await
            .map_err(error::log)?;
        match (first, last) {
            (Some(first), _) => return Ok(Place::after_position(identity.id, horizon, first as u64 - 1)),
            (None, Some(last)) => seen = last,
            (None, None) => return Ok(Place::after(identity.id, horizon)),
        }
    }
}

/// What the database says of the log and of itself.
pub(super) struct State {
    pub(super) identity: LogIdentity,
    pub(super) horizon: Horizon,
    pub(super) generations: Generations,
    /// Where the WAL ended after the snapshot was taken.
    lsn: String,
    /// Everything up to there is on disk already.
    flushed: bool,
}

/// Wants a transaction of the caller's own that has not asked before, or none.
///
/// # Errors
/// As [`identity`], and [`LogErrorKind::ReadOnly`] on a standby.
pub(super) async fn state(log: &Inner, conn: &mut PgConnection) -> Result<State, LogError> {
    look(log, conn, &[]).await.map(|(state, _)| state)
}

/// The state, and whether any of these transactions has ended and left rows.
async fn look(log: &Inner, conn: &mut PgConnection, awaited: &[u64]) -> Result<(State, bool), LogError> {
    let awaited: Vec<String> = awaited.iter().map(u64::to_string).collect();
    let row = sqlx::query(log.reader.state.clone()).bind(awaited).fetch_optional(conn).await.map_err(error::log)?;
    let row = row.ok_or_else(no_row)?;
    let identity = identity_of(log, &row)?;
    if get(&row, "abandoned")? {
        // Its own xid is missing in the snapshot of a transaction that writes, and what it knew first it knows for ever.
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
    let (numbers, begin_at): (Vec<i64>, Vec<i64>) = (get(&row, "generations")?, get(&row, "begin_at")?);
    let generations = Generations::parse(numbers.into_iter().zip(begin_at))?;
    Ok((State { identity, horizon, generations, lsn, flushed: flushed == Some(true) }, get(&row, "late")?))
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

/// Waits until a crash can take nothing back of what ended before `lsn`. Writers that commit asynchronously do not wait
/// for that themselves, and the server may take a while when it has nothing else to do.
///
/// The same goes for a place without events: it counts on transactions that had ended, whose ids a crash could issue
/// again.
async fn flush(log: &Inner, lsn: &str) -> Result<(), LogError> {
    for _ in 0..ASKED_FOR_FLUSH {
        if is_flushed(log, lsn).await? {
            return Ok(());
        }
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

fn get<'r, T>(row: &'r PgRow, column: &str) -> Result<T, LogError>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(column).map_err(error::log)
}
