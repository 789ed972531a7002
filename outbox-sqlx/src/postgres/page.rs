//! A page: the rows that [`super::cursor`] asks for, of all tracks in one statement.

mod row;

use futures_util::TryStreamExt as _;
use outbox_core::{
    event::{LaneSet, RecordedEvent},
    log::{LogError, LogErrorKind},
};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, Postgres, Row as _, SqlSafeStr, SqlStr, pool::PoolConnection,
};
use tokio::sync::oneshot;

use super::{
    SchemaName,
    cursor::{Positioned, Reading, Source, Taken},
    error,
};
use crate::stored;
use row::{Found, xid};

/// A single track that has more positions than this before it, and no stragglers, is read with a statement of its own,
/// which costs the server less for each row and one more round trip now and then.
const MANY: u64 = 500;

/// Every statement has a new snapshot, whatever the pool's default is. On a standby `READ WRITE` is an error: behind a
/// pooler that knows one the snapshot may have come from the primary, and rows that are not here yet would be passed by.
///
/// The plans are pinned because their statistics cannot be right: a page lies beyond everything that was analysed. Before
/// PostgreSQL 18 a scan that is switched off and used all the same seems so dear that the statement would be compiled,
/// for 100 ms. Settings end with the transaction.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE; \
    SET LOCAL plan_cache_mode = force_generic_plan; \
    SET LOCAL max_parallel_workers_per_gather = 0; \
    SET LOCAL jit = off; \
    SET LOCAL enable_seqscan = off; \
    SET LOCAL enable_bitmapscan = off";

#[derive(Debug, Clone)]
pub(super) struct Sql {
    page: SqlStr,
    backlog: SqlStr,
    flushed: SqlStr,
    unlisted: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let sql = |text: &str| AssertSqlSafe(schema.qualify(text)).into_sql_str();
        Self {
            // Rows of lanes that nobody asked for are needed to know how far the page goes, their payloads are not.
            //
            // Row comparisons for stragglers, because only the index on (xid, position) can answer them: with `xid = x`
            // the planner may prefer to filter the other one.
            //
            // The last row says whether the WAL is on disk by now: reading was often long enough.
            page: sql(&format!(
                "SELECT t.n, false AS late, e.* FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[])
                    AS t (n, mask, start, stop) CROSS JOIN LATERAL (
                        SELECT {COLUMNS} FROM @schema@.outbox_event
                        WHERE position > t.start AND position <= t.stop ORDER BY position LIMIT $5
                    ) AS e
                UNION ALL
                SELECT t.n, true, l.* FROM unnest($6::int8[], $7::int8[], $8::int8[], $9::int8[], $10::int8[])
                    AS t (n, mask, passed, first, last) CROSS JOIN LATERAL (
                        SELECT e.* FROM unnest(($11::text[])[t.first:t.last]) AS x CROSS JOIN LATERAL (
                            SELECT {COLUMNS} FROM @schema@.outbox_event
                            WHERE (xid, position) > (x::xid8, t.passed)
                                AND (xid, position) <= (x::xid8, 9223372036854775807)
                            ORDER BY outbox_event.xid, outbox_event.position LIMIT $5
                        ) AS e ORDER BY e.position LIMIT $5
                    ) AS l
                UNION ALL
                SELECT -1, pg_current_wal_flush_lsn() >= $12::text::pg_lsn, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                    NULL, NULL, NULL, NULL, NULL, NULL"
            )),
            backlog: sql(&format!(
                "SELECT {} FROM @schema@.outbox_event WHERE position > $2 AND position <= $3 ORDER BY position LIMIT $4",
                COLUMNS.replace("t.mask", "$1")
            )),
            flushed: sql("SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn"),
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

const COLUMNS: &str = "xid, position, lane, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type, \
    CASE WHEN (t.mask >> lane) & 1 = 1 THEN payload END AS payload, headers, created_at, unordered";

/// What one track reads.
pub(super) struct Wanted {
    pub(super) reading: Reading,
    pub(super) lanes: LaneSet,
}

/// What is asked for.
pub(super) struct Request {
    pub(super) wanted: Vec<Wanted>,
    /// So many rows of each track.
    pub(super) limit: usize,
    pub(super) decoder: stored::Decoder,
    /// Whether the WAL is on disk up to here by now; none when that is known.
    pub(super) lsn: Option<String>,
}

/// What was read.
pub(super) struct Pages {
    pub(super) pages: Vec<Taken<RecordedEvent>>,
    /// The WAL is on disk as far as was asked.
    pub(super) flushed: bool,
}

/// Reads the pages of all tracks, in their order, decoding rows while the server finds the next ones.
///
/// It is done in a task of its own, for two reasons. sqlx 0.9.0 forgets a `BEGIN` that was dropped while it was under
/// way, and would lend the connection to others in the middle of that transaction (mended in sqlx by its #4394); the task
/// ends what it has begun. And the caller has the page while the transaction is still being ended.
pub(super) async fn take(mut conn: PoolConnection<Postgres>, sql: Sql, request: Request) -> Result<Pages, LogError> {
    let (found, page) = oneshot::channel();
    tokio::spawn(async move {
        // Nobody is left to hear the answer when the caller was dropped.
        let ended = match conn.begin_with(BEGIN).await {
            Ok(mut tx) => {
                let _ = found.send(read(&mut tx, &sql, request).await);
                tx.commit().await.is_ok()
            }
            Err(refused) => {
                let _ = found.send(Err(not_begun(refused)));
                false
            }
        };
        if !ended {
            conn.close_on_drop();
        }
    });
    page.await.unwrap_or_else(|_| {
        let message = "reading was interrupted: the runtime is shutting down";
        Err(LogError::new(LogErrorKind::Unavailable, message))
    })
}

fn not_begun(refused: sqlx::Error) -> LogError {
    let code = refused.as_database_error().and_then(sqlx::error::DatabaseError::code);
    if code.as_deref() == Some("0A000") {
        let message = "the server is a standby: it may not have all rows yet; read from the primary";
        return LogError::new(LogErrorKind::ReadOnly, message).with_source(refused);
    }
    error::log(refused)
}

async fn read(conn: &mut PgConnection, sql: &Sql, mut request: Request) -> Result<Pages, LogError> {
    for Wanted { reading, .. } in &mut request.wanted {
        if let Some(span) = reading.unlisted() {
            reading.found(unlisted(conn, sql, span).await?);
        }
    }
    let mut sources: Vec<_> = request.wanted.iter().map(|_| (Source::new(), Source::new())).collect();
    let flushed = match &mut sources[..] {
        [(scanned, _)] if request.wanted.iter().any(|wanted| wanted.reading.backlog() > MANY) => {
            backlog(conn, sql, &mut request, scanned).await?
        }
        _ => page(conn, sql, &mut request, &mut sources).await?,
    };
    let Request { wanted, limit, lsn, .. } = request;
    let taken = wanted.into_iter().zip(sources);
    let pages = taken.map(|(wanted, (scanned, late))| wanted.reading.take(scanned, late, limit)).collect();
    Ok(Pages { pages, flushed: lsn.is_none() || flushed })
}

async fn page(
    conn: &mut PgConnection,
    sql: &Sql,
    request: &mut Request,
    sources: &mut [(Source<RecordedEvent>, Source<RecordedEvent>)],
) -> Result<bool, LogError> {
    let Request { wanted, limit, decoder, lsn } = request;
    let mut rows = Arguments::of(wanted).bind(sql.page.clone(), *limit, lsn.clone()).fetch(conn);
    let mut flushed = None;
    while let Some(row) = rows.try_next().await.map_err(error::log)? {
        let track: i64 = row.try_get(0).map_err(error::log)?;
        let Ok(track) = usize::try_from(track) else {
            flushed = row.try_get(1).map_err(error::log)?;
            continue;
        };
        let found = Found::parse(&row, 2)?;
        let (Some(Wanted { reading, lanes }), Some((scanned, late))) = (wanted.get(track), sources.get_mut(track))
        else {
            return Err(stored::corrupt(format!("the server answered for track {track}")));
        };
        let is_late: bool = row.try_get(1).map_err(error::log)?;
        let belongs = lanes.contains(found.lane) && (is_late || reading.has(found.xid));
        let event = if belongs { Some(decoder.event(&found.columns()?)?) } else { None };
        if is_late { late } else { scanned }.push(found.position, event);
    }
    Ok(flushed == Some(true))
}

async fn backlog(
    conn: &mut PgConnection,
    sql: &Sql,
    request: &mut Request,
    scanned: &mut Source<RecordedEvent>,
) -> Result<bool, LogError> {
    let Request { wanted, limit, decoder, lsn } = request;
    for Wanted { reading, lanes } in wanted {
        let Some((start, stop)) = reading.scan() else { continue };
        let mut rows = sqlx::query(sql.backlog.clone())
            .bind(lanes.mask() as i64)
            .bind(start as i64)
            .bind(stop as i64)
            .bind(i64::try_from(*limit).unwrap_or(i64::MAX))
            .fetch(&mut *conn);
        while let Some(row) = rows.try_next().await.map_err(error::log)? {
            let found = Found::parse(&row, 0)?;
            let belongs = lanes.contains(found.lane) && reading.has(found.xid);
            let event = if belongs { Some(decoder.event(&found.columns()?)?) } else { None };
            scanned.push(found.position, event);
        }
    }
    let Some(lsn) = lsn.clone() else { return Ok(true) };
    sqlx::query_scalar(sql.flushed.clone()).bind(lsn).fetch_one(conn).await.map_err(error::log)
}

async fn unlisted(conn: &mut PgConnection, sql: &Sql, span: std::ops::Range<u64>) -> Result<Vec<u64>, LogError> {
    let rows = sqlx::query(sql.unlisted.clone())
        .bind(span.start.to_string())
        .bind(span.end.to_string())
        .fetch_all(conn)
        .await
        .map_err(error::log)?;
    rows.iter().map(|row| xid(row, 0)).collect()
}

/// The parameters of the statement: what all tracks want, as columns.
#[derive(Default)]
struct Arguments {
    scans: Scans,
    stragglers: Stragglers,
}

#[derive(Default)]
struct Scans {
    tracks: Vec<i64>,
    masks: Vec<i64>,
    starts: Vec<i64>,
    stops: Vec<i64>,
}

/// Each track has the xids from `first` to `last`, counted from one.
#[derive(Default)]
struct Stragglers {
    tracks: Vec<i64>,
    masks: Vec<i64>,
    passed: Vec<i64>,
    first: Vec<i64>,
    last: Vec<i64>,
    xids: Vec<String>,
}

impl Arguments {
    fn of(wanted: &[Wanted]) -> Self {
        let mut all = Self::default();
        for (track, Wanted { reading, lanes }) in wanted.iter().enumerate() {
            let (track, mask) = (track as i64, lanes.mask() as i64);
            if let Some((start, stop)) = reading.scan() {
                all.scans.tracks.push(track);
                all.scans.masks.push(mask);
                all.scans.starts.push(start as i64);
                all.scans.stops.push(stop as i64);
            }
            let late = &mut all.stragglers;
            if !reading.stragglers().is_empty() {
                late.tracks.push(track);
                late.masks.push(mask);
                late.passed.push(reading.passed() as i64);
                late.first.push(late.xids.len() as i64 + 1);
                late.xids.extend(reading.stragglers().iter().map(u64::to_string));
                late.last.push(late.xids.len() as i64);
            }
        }
        all
    }

    fn bind(
        self,
        sql: SqlStr,
        limit: usize,
        lsn: Option<String>,
    ) -> sqlx::query::Query<'static, Postgres, sqlx::postgres::PgArguments> {
        let Self { scans, stragglers } = self;
        sqlx::query(sql)
            .bind(scans.tracks)
            .bind(scans.masks)
            .bind(scans.starts)
            .bind(scans.stops)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(stragglers.tracks)
            .bind(stragglers.masks)
            .bind(stragglers.passed)
            .bind(stragglers.first)
            .bind(stragglers.last)
            .bind(stragglers.xids)
            .bind(lsn)
    }
}

impl Positioned for RecordedEvent {
    fn position(&self) -> u64 {
        self.origin.sequence.position()
    }
}
