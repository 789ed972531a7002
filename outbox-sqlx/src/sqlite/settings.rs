//! What connections have to be set to.

use outbox_core::log::{LogError, LogErrorKind};
use sqlx::SqlitePool;

use super::error;

/// `FULL`; 3 is `EXTRA`, which is no less.
const FULL: i64 = 2;

/// Looks at one connection. Those of the writers are the callers' own, and are not seen here.
///
/// # Errors
/// [`LogErrorKind::Incompatible`] when a power cut could take back what was read, or readers and writers would wait for
/// each other.
pub(super) async fn check(pool: &SqlitePool) -> Result<(), LogError> {
    let mut conn = pool.acquire().await.map_err(error::log)?;
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *conn).await.map_err(error::log)?;
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *conn).await.map_err(error::log)?;
    if journal != "wal" {
        let message = format!(
            "journal_mode is {journal:?}, so readers and writers wait for each other, or a crash loses events; connect \
             with `SqliteLog::connect_options`, or set journal_mode=WAL"
        );
        return Err(LogError::new(LogErrorKind::Incompatible, message));
    }
    if synchronous < FULL {
        let message = format!(
            "synchronous is {synchronous}, so a power cut takes back events that were already read; connect with \
             `SqliteLog::connect_options`, or set synchronous=FULL"
        );
        return Err(LogError::new(LogErrorKind::Incompatible, message));
    }
    Ok(())
}
