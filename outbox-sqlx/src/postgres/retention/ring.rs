//! Emptying a leaf of a ring.

use outbox_core::log::{LogError, LogErrorKind};
use sqlx::{AssertSqlSafe, PgConnection, SqlSafeStr as _, SqlStr};

use super::{course::Marks, step::Step};
use crate::postgres::error;

/// Makes the table of a new log a ring; follows the migrations.
pub(in crate::postgres) const RING: &str = include_str!("../migrations/ring.sql");

/// Readers of the log wait at most this long for a step that waits for one of them.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '50ms'";

pub(super) enum Emptied {
    /// So many events are gone.
    Yes { events: u64 },
    /// The policy keeps one of them, or the leaf holds events of a later window.
    Kept,
    /// A transaction uses the leaf. Ours has failed.
    InUse(Counted),
}

/// So many events up to this position are all that is in a leaf, and all of them may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    end: u64,
    events: u64,
}

/// Empties a leaf whose positions up to `end` have all settled, and moves the marks there.
///
/// No writer can be kept waiting: they insert into the leaf of the newest window, and take no lock on others.
pub(super) async fn empty(
    step: &Step<'_>,
    tx: &mut PgConnection,
    marks: Marks,
    leaf: u64,
    end: u64,
) -> Result<Emptied, LogError> {
    let sql = |text: &str| {
        let leaf = format!("@schema@.outbox_event_leaf_{leaf}");
        AssertSqlSafe(step.log.schema.qualify(&text.replace("@leaf@", &leaf))).into_sql_str()
    };
    let counted = match step.counted.filter(|counted| counted.end == end) {
        Some(counted) => counted,
        None => match count(step, tx, &sql, end).await? {
            Some(events) => Counted { end, events },
            None => return Ok(Emptied::Kept),
        },
    };

    // With the lock, what is in the leaf is committed: nobody who has written to it is still open. Its next window may
    // have begun since the count, though.
    sqlx::query(LOCK_TIMEOUT).execute(&mut *tx).await.map_err(error::log)?;
    let locked = sqlx::query(sql("LOCK TABLE @leaf@ IN ACCESS EXCLUSIVE MODE")).execute(&mut *tx).await;
    if locked.as_ref().is_err_and(timed_out) {
        return Ok(Emptied::InUse(counted));
    }
    locked.map_err(error::log)?;
    let shared: bool = sqlx::query_scalar(sql("SELECT EXISTS (SELECT FROM @leaf@ WHERE position > $1)"))
        .bind(end as i64)
        .fetch_one(&mut *tx)
        .await
        .map_err(error::log)?;
    if shared {
        return Ok(Emptied::Kept);
    }
    sqlx::query(sql("TRUNCATE @leaf@")).execute(&mut *tx).await.map_err(error::log)?;
    sqlx::query(step.log.retention.emptied.clone())
        .bind(end as i64)
        .bind(marks.pruned.max(end) as i64)
        .bind(marks.awaited.position as i64)
        .bind(marks.awaited.next_xid as i64)
        .execute(tx)
        .await
        .map_err(error::log)?;
    Ok(Emptied::Yes { events: counted.events })
}

/// `None` when one of the leaf's events has to stay.
async fn count(
    step: &Step<'_>,
    tx: &mut PgConnection,
    sql: &impl Fn(&str) -> SqlStr,
    end: u64,
) -> Result<Option<u64>, LogError> {
    // From the newest on: where one has to stay it is most likely among them.
    let kept: Option<i64> = sqlx::query_scalar(sql("SELECT position
        FROM @leaf@ CROSS JOIN (SELECT $2::text::pg_snapshot AS seen OFFSET 0) AS s
        WHERE position > $1 OR NOT pg_visible_in_snapshot(xid, seen)
            OR created_at > clock_timestamp() - make_interval(secs => $3)
        ORDER BY position DESC LIMIT 1"))
    .bind(end as i64)
    .bind(step.seen.snapshot().to_string())
    .bind(step.keep_seconds())
    .fetch_optional(&mut *tx)
    .await
    .map_err(error::log)?;
    if kept.is_some() {
        return Ok(None);
    }
    let events: i64 = sqlx::query_scalar(sql("SELECT count(*) FROM @leaf@")).fetch_one(tx).await.map_err(error::log)?;
    Ok(Some(events as u64))
}

fn timed_out(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "55P03")
}

/// Whether the log is the ring, or the plain table, that was asked for.
///
/// # Errors
/// [`LogErrorKind::Incompatible`].
pub(in crate::postgres) fn same_kind(is_ring: bool, asked_for_ring: bool) -> Result<(), LogError> {
    if asked_for_ring && !is_ring {
        let message = "the log exists as a plain table and cannot become a ring; open it without `ring`";
        return Err(LogError::new(LogErrorKind::Incompatible, message));
    }
    Ok(())
}
