//! What stands between here and the server.

use outbox_core::log::LogError;
use sqlx::{Executor as _, PgConnection, Row as _};

use crate::{
    doctor::{Check, Finding},
    postgres::{Inner, error},
};

/// A server's process that serves two of our connections gives a pooler away: nothing else says so. One connection is
/// kept in a transaction meanwhile, so that a pooler has a reason to give the other one another process.
pub(super) async fn usable(log: &Inner) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("pooler");
    if log.pool.options().get_max_connections() < 2 {
        check.warning("not looked at: the pool has only one connection", "give the pool two connections");
        return Ok(check.or_ok(""));
    }
    let mut first = log.pool.acquire().await.map_err(error::log)?;
    let mut second = log.pool.acquire().await.map_err(error::log)?;
    let pooled = match shared(&mut first, &mut second).await {
        Ok(pooled) => pooled,
        Err(failed) => {
            // Left in the middle of something.
            drop((first.detach(), second.detach()));
            check.problem(
                format!("a transaction of several statements failed: {failed}"),
                "if a pooler stands in between, let it pool sessions or transactions, not statements",
            );
            return Ok(check.or_ok(""));
        }
    };
    if !pooled {
        return Ok(check.or_ok("none in between, or one that pools sessions"));
    }
    match prepared(&mut first, &mut second).await {
        Ok(()) => Ok(check.or_ok("one that pools transactions and knows prepared statements")),
        Err(failed) => {
            drop((first.detach(), second.detach()));
            check.problem(
                format!("one that pools transactions and loses prepared statements: {failed}"),
                "use PgBouncer 1.21 or later with max_prepared_statements above 0, or pool_mode = session for the log",
            );
            Ok(check.or_ok(""))
        }
    }
}

async fn shared(first: &mut PgConnection, second: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let mut shared = false;
    for _ in 0..3 {
        let before = process(first).await?;
        second.execute("BEGIN").await?;
        let other = process(second).await?;
        let after = process(first).await?;
        second.execute("ROLLBACK").await?;
        shared |= before == other || before != after;
    }
    Ok(shared)
}

/// Without a prepared statement, so that it works where those do not.
async fn process(conn: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(conn).await?.try_get(0)
}

/// Prepares on one process and executes on another one.
async fn prepared(first: &mut PgConnection, second: &mut PgConnection) -> Result<(), sqlx::Error> {
    for n in 0..3 {
        let _sum: i32 = sqlx::query_scalar("SELECT $1::integer + 1").bind(n).fetch_one(&mut *first).await?;
        second.execute("BEGIN").await?;
        let _there = process(second).await?;
        let again = sqlx::query_scalar::<_, i32>("SELECT $1::integer + 1").bind(n).fetch_one(&mut *first).await;
        second.execute("ROLLBACK").await?;
        again?;
    }
    Ok(())
}
