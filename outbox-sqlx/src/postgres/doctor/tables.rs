//! The log's own tables.

use chrono::{DateTime, Utc};
use outbox_core::log::{LogAdmin as _, LogError};

use super::{get, sql};
use crate::{
    doctor::{Check, Finding, Limits, size, spoken},
    postgres::{Inner, PostgresLog, error},
};

/// The two that readers need, on the table itself or on each leaf of a ring.
pub(super) async fn indexes(log: &Inner) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("indexes");
    let rows = sqlx::query(sql(
        log,
        "WITH events AS (
            SELECT c.oid FROM pg_class AS c
            WHERE c.relkind = 'r' AND (c.oid = '@schema@.outbox_event'::regclass
                OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = '@schema@.outbox_event'::regclass))
        ), wanted (columns, how) AS (
            VALUES ('{position}'::text[], 'UNIQUE (position)'), ('{xid,position}', '(xid, position)')
        )
        SELECT events.oid::regclass::text, how, coalesce(bool_or(i.valid), false), bool_or(NOT i.valid),
            min(i.name) FILTER (WHERE NOT i.valid)
        FROM events CROSS JOIN wanted
        LEFT JOIN LATERAL (
            SELECT i.indexrelid::regclass::text AS name, i.indisvalid AND i.indisready AS valid
            FROM pg_index AS i
            WHERE i.indrelid = events.oid AND i.indpred IS NULL AND (i.indisunique OR cardinality(columns) = 2)
                AND columns = ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k (number, nth)
                    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number ORDER BY nth)
        ) AS i ON true
        GROUP BY events.oid, how ORDER BY 1, 2",
    ))
    .fetch_all(&log.pool)
    .await
    .map_err(error::log)?;
    for row in &rows {
        let (table, how, good): (String, String, bool) = (get(row, 0)?, get(row, 1)?, get(row, 2)?);
        let invalid: Option<String> = get(row, 4)?;
        match (good, invalid) {
            (true, _) => {}
            (false, Some(index)) => check.problem(
                format!("index {index} is invalid: readers walk over the whole table instead"),
                format!("`REINDEX INDEX CONCURRENTLY {index}`"),
            ),
            (false, None) => check.problem(
                format!("{table} has no index {how}: readers walk over the whole table instead"),
                format!("make it again: `CREATE {} CONCURRENTLY` on {table}", how_to_say(&how)),
            ),
        }
    }
    Ok(check.or_ok("both are there"))
}

fn how_to_say(how: &str) -> String {
    match how.strip_prefix("UNIQUE ") {
        Some(columns) => format!("UNIQUE INDEX {columns}"),
        None => format!("INDEX {how}"),
    }
}

/// With a cache, a session hands out positions that it drew long ago.
pub(super) async fn sequence(log: &Inner) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("sequence");
    let row = sqlx::query(sql(
        log,
        "SELECT seqcache, seqincrement, seqcycle, seqmax,
            (SELECT @head@ FROM @schema@.outbox_event_position_seq)
        FROM pg_sequence WHERE seqrelid = '@schema@.outbox_event_position_seq'::regclass",
    ))
    .fetch_one(&log.pool)
    .await
    .map_err(error::log)?;
    let (cache, increment, cycle): (i64, i64, bool) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
    let (highest, last): (i64, i64) = (get(&row, 3)?, get(&row, 4)?);
    if cache != 1 || increment < 1 || cycle {
        check.problem(
            format!(
                "positions are drawn with CACHE {cache}, INCREMENT {increment}{}",
                if cycle { ", CYCLE" } else { "" }
            ),
            format!(
                "events of one key may be read in another order than that of their commits: \
                 `ALTER SEQUENCE \"{}\".outbox_event_position_seq CACHE 1 INCREMENT 1 NO CYCLE`",
                log.schema
            ),
        );
    }
    if last > highest / 10 * 9 {
        check.problem(format!("{last} of {highest} positions are used up"), "begin a new log");
    }
    Ok(check.or_ok(format!("position {last}, no cache")))
}

/// Rows of them are renewed often, and vacuum has to keep up.
pub(super) async fn bloat(log: &Inner) -> Result<Vec<Finding>, LogError> {
    const DEAD: i64 = 10_000;
    let mut check = Check::new("bloat");
    let rows = sqlx::query(
        "SELECT relname::text, n_live_tup, n_dead_tup, last_autovacuum, pg_total_relation_size(relid)
        FROM pg_stat_user_tables
        WHERE schemaname = $1 AND relname LIKE 'outbox\\_%' AND relname NOT LIKE 'outbox\\_event%'
            AND n_dead_tup >= $2 AND n_dead_tup > 2 * n_live_tup
        ORDER BY relname",
    )
    .bind(log.schema.as_str())
    .bind(DEAD)
    .fetch_all(&log.pool)
    .await
    .map_err(error::log)?;
    for row in &rows {
        let (table, live, dead): (String, i64, i64) = (get(row, 0)?, get(row, 1)?, get(row, 2)?);
        let (vacuumed, bytes): (Option<DateTime<Utc>>, i64) = (get(row, 3)?, get(row, 4)?);
        let vacuumed = vacuumed.map_or_else(
            || "never".to_owned(),
            |at| format!("{} ago", spoken((Utc::now() - at).to_std().unwrap_or_default())),
        );
        check.warning(
            format!(
                "{table} has {dead} dead rows beside {live} live ones ({}; vacuumed {vacuumed})",
                size(bytes.cast_unsigned())
            ),
            format!(
                "end what holds vacuum back (check `transactions`), see whether autovacuum runs, then `VACUUM \"{}\".{table}`",
                log.schema
            ),
        );
    }
    Ok(check.or_ok("the small tables are small"))
}

/// Whether somebody calls `prune`. Policies are the callers' own, so what is kept is no finding while somebody does.
pub(super) async fn retention(log: &PostgresLog, limits: &Limits) -> Result<Vec<Finding>, LogError> {
    const LARGE: u64 = 1 << 30;
    let mut check = Check::new("retention");
    let inner = &*log.inner;
    let row = sqlx::query(sql(
        inner,
        "SELECT r.pruned_at, e.position, e.created_at, t.bytes::bigint
        FROM @schema@.outbox_retention AS r
        LEFT JOIN LATERAL (
            SELECT position, created_at FROM @schema@.outbox_event WHERE position > r.swept ORDER BY position LIMIT 1
        ) AS e ON true
        CROSS JOIN LATERAL (
            SELECT sum(pg_total_relation_size(relid)) AS bytes FROM pg_partition_tree('@schema@.outbox_event')
        ) AS t",
    ))
    .fetch_one(&inner.pool)
    .await
    .map_err(error::log)?;
    let (pruned_at, bytes): (Option<DateTime<Utc>>, Option<i64>) = (get(&row, 0)?, get(&row, 3)?);
    let (oldest, created_at): (Option<i64>, Option<DateTime<Utc>>) = (get(&row, 1)?, get(&row, 2)?);
    let passed = log.consumers().await?.iter().map(|consumer| consumer.position).min();
    let removable = oldest.is_some_and(|oldest| passed.is_some_and(|passed| oldest.cast_unsigned() <= passed));

    let ago = |at: DateTime<Utc>| (Utc::now() - at).to_std().unwrap_or_default();
    let bytes = bytes.unwrap_or_default().cast_unsigned();
    let last = pruned_at.map_or_else(|| "never ran".to_owned(), |at| format!("ran {} ago", spoken(ago(at))));
    let idle = pruned_at.is_none_or(|at| ago(at) >= limits.idle);
    let old = created_at.is_some_and(|at| ago(at) >= limits.retained);
    if removable && idle && (old || (pruned_at.is_none() && bytes >= LARGE)) {
        let age = created_at.map(|at| spoken(ago(at))).unwrap_or_default();
        check.warning(
            format!(
                "it {last}; the oldest event is {age} old, every consumer has passed it; the log takes {}",
                size(bytes)
            ),
            "run `outbox prune --keep-for 7d --yes` from a timer, or the library's pruner in a service",
        );
    }
    Ok(check.or_ok(format!("it {last}; the log takes {}", size(bytes))))
}
