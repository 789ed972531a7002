//! The server as a whole.

use std::time::Duration;

use outbox_core::log::LogError;

use super::{get, sql};
use crate::{
    doctor::{Check, Finding, Limits, size, spoken},
    postgres::{Inner, error},
};

/// A timeline begins with each promotion and each restore to an earlier time: either may have lost transactions.
pub(super) async fn primary(log: &Inner) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("server");
    // The timeline is what names of WAL files begin with. A standby refuses to say it.
    let row = sqlx::query(
        "SELECT pg_is_in_recovery(), current_setting('server_version'),
            CASE WHEN NOT pg_is_in_recovery()
                THEN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer END",
    )
    .fetch_one(&log.pool)
    .await
    .map_err(error::log)?;
    let (standby, version, now): (bool, String, Option<i32>) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
    if standby {
        check.problem("this is a standby", "connect to the primary: readers of the log need its snapshots");
        return Ok(check.or_ok(""));
    }
    let anchored: Option<i32> = sqlx::query_scalar(sql(
        log,
        "SELECT timeline FROM @schema@.outbox_generation ORDER BY generation DESC LIMIT 1",
    ))
    .fetch_one(&log.pool)
    .await
    .map_err(error::log)?;
    if let (Some(anchored), Some(now)) = (anchored, now)
        && anchored != now
    {
        check.warning(
            format!("the timeline changed from {anchored} to {now}: a standby was promoted, or a backup restored"),
            "if transactions were lost or may have been, `outbox reanchor`, so that consumers do not take new events for \
             old ones; it also settles this warning",
        );
    }
    Ok(check.or_ok(format!("primary, PostgreSQL {version}, timeline {}", now.unwrap_or_default())))
}

/// What keeps vacuum from removing dead rows: everything slows down from then on, not only the log.
pub(super) async fn transactions(log: &Inner, limits: &Limits) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("transactions");
    sessions(log, limits, &mut check).await?;
    prepared(log, limits, &mut check).await?;
    slots(log, limits, &mut check).await?;
    let sees_all: bool = sqlx::query_scalar("SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')")
        .fetch_one(&log.pool)
        .await
        .map_err(error::log)?;
    if !sees_all {
        check.warning(
            "the role sees only its own sessions",
            "grant it pg_monitor, so that other people's long transactions are seen",
        );
    }
    Ok(check.or_ok(format!("none is open for {}", spoken(limits.transaction))))
}

/// Sessions of this database: those of others hold back other tables.
async fn sessions(log: &Inner, limits: &Limits, check: &mut Check) -> Result<(), LogError> {
    let rows = sqlx::query(
        "SELECT pid, coalesce(usename, '?')::text, application_name, coalesce(state, '?'), backend_type,
            extract(epoch FROM clock_timestamp() - coalesce(xact_start, backend_start))::float8 AS open
        FROM pg_stat_activity
        WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid()
            AND datname = current_database()
            AND clock_timestamp() - coalesce(xact_start, backend_start) >= make_interval(secs => $1)
            -- Vacuums hold back nobody, and of replication the slots tell.
            AND backend_type NOT IN ('autovacuum worker', 'walsender')
        ORDER BY open DESC LIMIT 10",
    )
    .bind(limits.transaction.as_secs_f64())
    .fetch_all(&log.pool)
    .await
    .map_err(error::log)?;
    for row in &rows {
        let (pid, user, state): (i32, String, String) = (get(row, 0)?, get(row, 1)?, get(row, 3)?);
        let (application, open): (String, f64) = (get(row, 2)?, get(row, 5)?);
        let open = Duration::try_from_secs_f64(open).unwrap_or_default();
        judge(
            check,
            open,
            limits,
            format!("a transaction of {user} ({application:?}, {state}, process {pid}) is open for {}", spoken(open)),
            format!(
                "end it (`SELECT pg_terminate_backend({pid})`): dead rows cannot be removed while it is open; \
                 idle_in_transaction_session_timeout prevents the most frequent case"
            ),
        );
    }
    Ok(())
}

async fn prepared(log: &Inner, limits: &Limits, check: &mut Check) -> Result<(), LogError> {
    let rows = sqlx::query(
        "SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8 AS open FROM pg_prepared_xacts
        WHERE database = current_database() AND clock_timestamp() - prepared >= make_interval(secs => $1)
        ORDER BY open DESC LIMIT 10",
    )
    .bind(limits.transaction.as_secs_f64())
    .fetch_all(&log.pool)
    .await
    .map_err(error::log)?;
    for row in &rows {
        let (gid, open): (String, f64) = (get(row, 0)?, get(row, 1)?);
        let open = Duration::try_from_secs_f64(open).unwrap_or_default();
        judge(
            check,
            open,
            limits,
            format!("transaction {gid:?} is prepared for {}", spoken(open)),
            "COMMIT PREPARED or ROLLBACK PREPARED it: it outlives sessions and restarts, and holds its locks"
                .to_owned(),
        );
    }
    Ok(())
}

fn judge(check: &mut Check, open: Duration, limits: &Limits, message: String, advice: String) {
    if open >= limits.transaction * 12 {
        check.problem(message, advice);
    } else {
        check.warning(message, advice);
    }
}

/// A slot that nobody reads keeps WAL until the disk is full, and, with an xmin, dead rows.
async fn slots(log: &Inner, limits: &Limits, check: &mut Check) -> Result<(), LogError> {
    let rows = sqlx::query(
        "SELECT slot_name::text, active, xmin IS NOT NULL,
            pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::float8 AS kept
        FROM pg_replication_slots
        WHERE restart_lsn IS NOT NULL AND NOT pg_is_in_recovery() AND NOT temporary ORDER BY slot_name",
    )
    .fetch_all(&log.pool)
    .await
    .map_err(error::log)?;
    for row in &rows {
        let (slot, active, rows_too): (String, bool, bool) = (get(row, 0)?, get(row, 1)?, get(row, 2)?);
        let kept: f64 = get(row, 3)?;
        let kept = kept.max(0.0) as u64;
        let what = if rows_too { "write-ahead log and dead rows" } else { "write-ahead log" };
        let reader = if active { "is read too slowly" } else { "is read by nobody" };
        let message = format!("replication slot {slot} {reader} and keeps {} of {what}", size(kept));
        let advice = format!("let its reader catch up, or `SELECT pg_drop_replication_slot('{slot}')` if it has none");
        if kept >= limits.slot_bytes {
            check.problem(message, advice);
        } else if !active {
            check.warning(message, advice);
        }
    }
    Ok(())
}
