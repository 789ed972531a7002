//! Writing events into the caller's transaction.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use outbox_core::{
    event::{Event, Lane, LaneCount, LogId, NewEvent, OrderingKey},
    log::{LogError, LogErrorKind, LogIdentity},
    outbox::{AppendError, AppendErrorKind, Receipt},
};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgConnection, SqlSafeStr, SqlStr};
use uuid::Uuid;

use super::{Inner, SchemaName, error, reader};

/// An append of more keys than this locks their lanes instead. The server's lock table has room for
/// `max_locks_per_transaction` (64 by default) times `max_connections` locks, for all sessions together.
const MOST_KEYS: usize = 512;

/// One statement carries payloads of about this many bytes; a bind parameter is limited to 1 GiB.
const STATEMENT_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Sql {
    append: SqlStr,
    append_bulk: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        // The locks are taken before the first row leaves the join, so before its position is drawn: rows need
        // `key_locks`, which needs `lane_locks`. Defaults are computed above the ordered rows.
        let insert = |lane_lock: &str| {
            let sql = format!(
                "WITH lane_locks AS MATERIALIZED (
                    SELECT count({lane_lock}(k)) AS taken FROM unnest($1::bigint[]) AS k
                ), key_locks AS MATERIALIZED (
                    SELECT count(pg_advisory_xact_lock(k)) AS taken FROM lane_locks CROSS JOIN unnest($2::bigint[]) AS k
                )
                INSERT INTO @schema@.outbox_event (lane, id, aggregate_type, aggregate_id, ordering_key, event_type,
                    content_type, payload, headers, created_at)
                SELECT e.lane, e.id, e.aggregate_type, e.aggregate_id, e.ordering_key, e.event_type,
                    e.content_type, e.payload, e.headers, e.created_at
                FROM key_locks CROSS JOIN unnest($3::smallint[], $4::uuid[], $5::text[], $6::text[], $7::text[],
                        $8::text[], $9::text[], $10::bytea[], $11::bytea[], $12::timestamptz[])
                    WITH ORDINALITY AS e (lane, id, aggregate_type, aggregate_id, ordering_key, event_type,
                        content_type, payload, headers, created_at, n)
                ORDER BY e.n"
            );
            AssertSqlSafe(schema.qualify(&sql)).into_sql_str()
        };
        Self { append: insert("pg_advisory_xact_lock_shared"), append_bulk: insert("pg_advisory_xact_lock") }
    }
}

pub(super) async fn append(
    log: &Inner,
    conn: &mut PgConnection,
    events: &[NewEvent],
    serialise: bool,
) -> Result<Receipt, AppendError> {
    for event in events {
        log.profile.check(event)?;
    }
    if events.is_empty() {
        return Ok(Receipt::new(0, log.wake.clone()));
    }
    let LogIdentity { id, lanes, .. } = frozen(log, conn).await?;
    let keys: Vec<_> = events.iter().map(|event| event.event().lane_key()).collect();
    let row_lanes: Vec<Lane> = keys.iter().map(|key| lanes.lane_of(key)).collect();
    let locks = if serialise { Locks::new(id, &keys, &row_lanes) } else { Locks::none() };

    let sql = if locks.bulk { &log.append.append_bulk } else { &log.append.append };
    let mut rows = Rows::with_capacity(events.len());
    let (mut lane_locks, mut key_locks) = (locks.lanes, locks.keys);
    for (event, lane) in events.iter().zip(row_lanes) {
        rows.push(event.event(), lane);
        if rows.bytes >= STATEMENT_BYTES {
            let full = std::mem::replace(&mut rows, Rows::with_capacity(0));
            insert(conn, sql, std::mem::take(&mut lane_locks), std::mem::take(&mut key_locks), full).await?;
        }
    }
    if !rows.lanes.is_empty() {
        insert(conn, sql, lane_locks, key_locks, rows).await?;
    }
    Ok(Receipt::new(events.len(), log.wake.clone()))
}

/// The identity, asked once through the caller's own connection: the pool may have no other to spare.
async fn frozen(log: &Inner, conn: &mut PgConnection) -> Result<LogIdentity, AppendError> {
    if let Some(identity) = log.frozen.get() {
        return Ok(*identity);
    }
    reader::identity(log, conn).await.map_err(|error: LogError| {
        let kind = match error.kind() {
            LogErrorKind::NotMigrated => AppendErrorKind::NotMigrated,
            LogErrorKind::Incompatible => AppendErrorKind::Incompatible,
            _ => AppendErrorKind::Database,
        };
        AppendError::new(kind, "the log cannot be written to as it is; roll the transaction back").with_source(error)
    })
}

/// What one call locks, in the one order that all calls follow: lanes, then keys, each ascending.
struct Locks {
    lanes: Vec<i64>,
    keys: Vec<i64>,
    bulk: bool,
}

impl Locks {
    fn none() -> Self {
        Self { lanes: Vec::new(), keys: Vec::new(), bulk: false }
    }

    /// Every writer shares the locks of its lanes and owns those of its keys; a writer of very many keys owns the lanes,
    /// and with them all their keys.
    fn new(log: LogId, keys: &[impl AsRef<str>], row_lanes: &[Lane]) -> Self {
        let sorted = |locks: &mut Vec<i64>| {
            locks.sort_unstable();
            locks.dedup();
        };
        let mut key_locks: Vec<i64> = keys.iter().map(|key| lock(log, b'k', key.as_ref().as_bytes())).collect();
        sorted(&mut key_locks);
        let bulk = key_locks.len() > MOST_KEYS;
        if bulk {
            key_locks.clear();
        }
        let mut present = [false; LaneCount::MAX as usize];
        for lane in row_lanes {
            present[usize::from(lane.get())] = true;
        }
        let mut lane_locks: Vec<i64> =
            (0..LaneCount::MAX).filter(|n| present[usize::from(*n)]).map(|n| lock(log, b'l', &[n])).collect();
        sorted(&mut lane_locks);
        Self { lanes: lane_locks, keys: key_locks, bulk }
    }
}

/// The number of an advisory lock. Logs in one database must not wait for each other, so the log is part of it.
fn lock(log: LogId, kind: u8, key: &[u8]) -> i64 {
    let hash = Sha256::new().chain_update(log.0.as_bytes()).chain_update([kind]).chain_update(key).finalize();
    i64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
}

/// The events as columns.
struct Rows<'e> {
    bytes: usize,
    lanes: Vec<i16>,
    ids: Vec<Uuid>,
    aggregate_types: Vec<&'e str>,
    aggregate_ids: Vec<&'e str>,
    ordering_keys: Vec<Option<&'e str>>,
    event_types: Vec<&'e str>,
    content_types: Vec<&'e str>,
    payloads: Vec<Option<&'e [u8]>>,
    headers: Vec<Vec<u8>>,
    created_at: Vec<DateTime<Utc>>,
}

impl<'e> Rows<'e> {
    fn with_capacity(n: usize) -> Self {
        Self {
            bytes: 0,
            lanes: Vec::with_capacity(n),
            ids: Vec::with_capacity(n),
            aggregate_types: Vec::with_capacity(n),
            aggregate_ids: Vec::with_capacity(n),
            ordering_keys: Vec::with_capacity(n),
            event_types: Vec::with_capacity(n),
            content_types: Vec::with_capacity(n),
            payloads: Vec::with_capacity(n),
            headers: Vec::with_capacity(n),
            created_at: Vec::with_capacity(n),
        }
    }

    fn push(&mut self, event: &'e Event, lane: Lane) {
        let headers = event.headers.to_stored();
        self.bytes += headers.len() + event.payload.as_ref().map_or(0, Bytes::len);
        self.lanes.push(i16::from(lane.get()));
        self.ids.push(event.id);
        self.aggregate_types.push(event.aggregate_type.as_str());
        self.aggregate_ids.push(event.aggregate_id.as_str());
        self.ordering_keys.push(event.ordering_key.as_ref().map(OrderingKey::as_str));
        self.event_types.push(event.event_type.as_str());
        self.content_types.push(event.content_type.as_str());
        self.payloads.push(event.payload.as_deref());
        self.headers.push(headers);
        self.created_at.push(event.created_at);
    }
}

async fn insert(
    conn: &mut PgConnection,
    sql: &SqlStr,
    lane_locks: Vec<i64>,
    key_locks: Vec<i64>,
    rows: Rows<'_>,
) -> Result<(), AppendError> {
    sqlx::query(sql.clone())
        .bind(lane_locks)
        .bind(key_locks)
        .bind(rows.lanes)
        .bind(rows.ids)
        .bind(rows.aggregate_types)
        .bind(rows.aggregate_ids)
        .bind(rows.ordering_keys)
        .bind(rows.event_types)
        .bind(rows.content_types)
        .bind(rows.payloads)
        .bind(rows.headers)
        .bind(rows.created_at)
        .execute(conn)
        .await
        .map_err(error::append)?;
    Ok(())
}
