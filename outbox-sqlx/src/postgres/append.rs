//! Writing events into the caller's transaction.

mod locks;
mod rows;

use outbox_core::{
    event::{Lane, NewEvent},
    log::{LogError, LogErrorKind, LogIdentity},
    outbox::{AppendError, AppendErrorKind, Receipt},
};
use sqlx::{AssertSqlSafe, PgConnection, SqlSafeStr, SqlStr};

use self::{locks::Locks, rows::Rows};
use super::{Inner, SchemaName, reader};
use crate::trace_context;

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
        // `key_locks`, which needs `lane_locks`, also where there are no keys: no lock is taken for the NULL of the outer
        // join. Defaults are computed above the ordered rows.
        let insert = |lane_lock: &str| {
            let sql = format!(
                "WITH lane_locks AS MATERIALIZED (
                    SELECT count({lane_lock}(k)) AS taken FROM unnest($1::bigint[]) AS k
                ), key_locks AS MATERIALIZED (
                    SELECT count(pg_advisory_xact_lock(k)) AS taken
                    FROM lane_locks LEFT JOIN unnest($2::bigint[]) AS k ON true
                )
                INSERT INTO @schema@.outbox_event (lane, id, aggregate_type, aggregate_id, ordering_key, event_type,
                    content_type, payload, headers, created_at, unordered)
                SELECT e.lane, e.id, e.aggregate_type, e.aggregate_id, e.ordering_key, e.event_type,
                    e.content_type, e.payload, e.headers, e.created_at, e.unordered
                FROM key_locks CROSS JOIN unnest($3::smallint[], $4::uuid[], $5::text[], $6::text[], $7::text[],
                        $8::text[], $9::text[], $10::bytea[], $11::bytea[], $12::timestamptz[], $13::boolean[])
                    WITH ORDINALITY AS e (lane, id, aggregate_type, aggregate_id, ordering_key, event_type,
                        content_type, payload, headers, created_at, unordered, n)
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
    let events = trace_context::joined(events, log.trace);
    for event in &*events {
        log.profile.check(event)?;
    }
    let receipt = || {
        let abroad = log.notifier.as_ref().map(|notifier| notifier.bell(&log.pool));
        Receipt::new(events.len(), log.wake.clone()).and_abroad(abroad)
    };
    if events.is_empty() {
        return Ok(receipt());
    }
    let LogIdentity { id, lanes, .. } = frozen(log, conn).await?;
    let rows = || events.iter().map(NewEvent::event);
    let row_lanes: Vec<Lane> = rows().map(|event| lanes.lane_of(&event.lane_key())).collect();
    let locks = if serialise { Locks::new(id, rows().zip(row_lanes.iter().copied())) } else { Locks::none() };

    let sql = if locks.bulk { &log.append.append_bulk } else { &log.append.append };
    let mut batch = Rows::with_capacity(events.len());
    let (mut lane_locks, mut key_locks) = (locks.lanes, locks.keys);
    for (event, lane) in rows().zip(row_lanes) {
        batch.push(event, lane);
        if batch.bytes >= STATEMENT_BYTES {
            let full = std::mem::replace(&mut batch, Rows::with_capacity(0));
            full.insert(conn, sql, std::mem::take(&mut lane_locks), std::mem::take(&mut key_locks)).await?;
        }
    }
    if !batch.is_empty() {
        batch.insert(conn, sql, lane_locks, key_locks).await?;
    }
    Ok(receipt())
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
