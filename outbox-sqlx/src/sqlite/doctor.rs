//! What hurts a log in a SQLite file.

use chrono::{DateTime, Utc};
use outbox_core::log::{EventLog as _, LogAdmin as _, LogError, LogErrorKind};
use sqlx::Row as _;

use super::{Inner, SqliteLog, cursor::Place, error, reader};
use crate::doctor::{Check, Finding, Limits, look, look_at_consumers, size, spoken};

impl SqliteLog {
    /// Looks for what hurts the log. The checks, by name:
    ///
    /// * `journal`: the file is in WAL mode, so that readers and the writer do not wait for each other;
    /// * `synchronous`: the log's own connections, by which `migrate` and members write, survive a power cut; those by
    ///   which the application writes are its own affair;
    /// * `wal`: no reader that stays keeps the write-ahead log growing;
    /// * `retention`: events that every consumer has passed are removed;
    /// * `consumers`, `lanes`: every consumer gets on, and every lane has an owner;
    /// * `cursors`: the consumers' places are of this file;
    /// * `clocks`: writers are not ahead of this process.
    ///
    /// It reads a few rows only. `wal` asks SQLite for a passive checkpoint, which waits for nobody.
    ///
    /// # Errors
    /// Only when the log cannot be opened at all: see [`EventLog::identity`](outbox_core::log::EventLog::identity).
    pub async fn examine(&self, limits: &Limits) -> Result<Vec<Finding>, LogError> {
        let log = &*self.inner;
        let mut findings = Vec::new();
        self.identity().await?;
        look(&mut findings, "journal", journal(log)).await;
        look(&mut findings, "synchronous", synchronous(log)).await;
        look(&mut findings, "wal", wal(log, limits)).await;
        look(&mut findings, "retention", retention(self, limits)).await;
        look_at_consumers(&mut findings, self, limits).await;
        look(&mut findings, "cursors", cursors(self)).await;
        look(&mut findings, "clocks", clocks(log, limits)).await;
        Ok(findings)
    }
}

async fn journal(log: &Inner) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("journal");
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&log.write).await.map_err(error::log)?;
    if mode != "wal" {
        check.problem(
            format!("the file is in journal mode {mode}: readers and the writer wait for each other"),
            "`PRAGMA journal_mode = WAL` once, with nobody else connected, or connect with SqliteLog::connect_options",
        );
    }
    Ok(check.or_ok("WAL"))
}

async fn synchronous(log: &Inner) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("synchronous");
    let level: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&log.write).await.map_err(error::log)?;
    if level < 2 {
        let name = if level == 1 { "NORMAL" } else { "OFF" };
        check.problem(
            format!(
                "connections have synchronous = {name}: a power cut takes back what was committed and already read"
            ),
            "connect with SqliteLog::connect_options, or set synchronous = FULL on every connection that writes",
        );
    }
    Ok(check.or_ok("FULL on the log's own connections"))
}

/// SQLite begins its write-ahead log anew when nobody needs the old one. A reader that stays prevents that.
async fn wal(log: &Inner, limits: &Limits) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("wal");
    let mut conn = log.write.acquire().await.map_err(error::log)?;
    let page: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut *conn).await.map_err(error::log)?;
    let row = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(&mut *conn).await.map_err(error::log)?;
    let (pages, kept): (i64, i64) = (row.try_get(1).map_err(error::log)?, row.try_get(2).map_err(error::log)?);
    let bytes = pages.max(0).cast_unsigned() * page.cast_unsigned();
    let held = (pages - kept).max(0);
    if bytes >= limits.wal_bytes {
        let why = match held {
            0 => "and could be begun anew".to_owned(),
            held => format!("and {held} of its pages are held by a reader"),
        };
        check.warning(
            format!("the write-ahead log is {} large {why}", size(bytes)),
            "find the connection that reads for long, in one transaction or one statement, and let it end",
        );
    }
    Ok(check.or_ok(format!("the write-ahead log is {} large", size(bytes))))
}

/// Whether somebody calls `prune`. Policies are the callers' own, so what is kept is no finding while somebody does.
async fn retention(log: &SqliteLog, limits: &Limits) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("retention");
    let row = sqlx::query(
        "SELECT pruned_at, (SELECT position FROM outbox_event ORDER BY position LIMIT 1) AS oldest,
            (SELECT created_at FROM outbox_event ORDER BY position LIMIT 1) AS created_at
        FROM outbox_retention",
    )
    .fetch_one(&log.inner.read)
    .await
    .map_err(error::log)?;
    let column = |n: usize| row.try_get::<Option<i64>, _>(n).map_err(error::log);
    let pruned_at = column(0)?.and_then(DateTime::<Utc>::from_timestamp_millis);
    let (oldest, created_at) = (column(1)?, column(2)?.and_then(DateTime::<Utc>::from_timestamp_micros));
    let passed = log.consumers().await?.iter().map(|consumer| consumer.position).min();
    let removable = oldest.is_some_and(|oldest| passed.is_some_and(|passed| oldest.cast_unsigned() <= passed));

    let ago = |at: DateTime<Utc>| (Utc::now() - at).to_std().unwrap_or_default();
    let last = pruned_at.map_or_else(|| "never ran".to_owned(), |at| format!("ran {} ago", spoken(ago(at))));
    let idle = pruned_at.is_none_or(|at| ago(at) >= limits.idle);
    if let Some(created_at) = created_at.filter(|at| removable && idle && ago(*at) >= limits.retained) {
        check.warning(
            format!("it {last}; the oldest event is {} old, and every consumer has passed it", spoken(ago(created_at))),
            "run `outbox prune --keep-for 7d --yes` from a timer, or the library's pruner in a service",
        );
    }
    Ok(check.or_ok(format!("it {last}")))
}

async fn cursors(log: &SqliteLog) -> Result<Vec<Finding>, LogError> {
    const ADVICE: &str = "stop the writers and `outbox reanchor`: the file was restored to an earlier time";
    let mut check = Check::new("cursors");
    let mut conn = log.inner.read.acquire().await.map_err(error::log)?;
    let state = reader::state(&log.inner, &mut conn).await?;
    drop(conn);
    let consumers = log.consumers().await?;
    for consumer in &consumers {
        let checked = match log.progress(&consumer.name).await {
            Ok(progress) => {
                progress.tracks.iter().try_for_each(|track| Place::parse(&track.cursor)?.within(&state).map(drop))
            }
            Err(error) => Err(error),
        };
        match checked {
            Err(error) if error.kind() == LogErrorKind::BadCursor => {
                check.problem(format!("consumer {}: {error}", consumer.name), ADVICE);
            }
            checked => checked?,
        }
    }
    Ok(check.or_ok(format!("those of {} consumers are of this file", consumers.len())))
}

async fn clocks(log: &Inner, limits: &Limits) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("clocks");
    let newest: Option<i64> = sqlx::query_scalar(
        "SELECT max(created_at) FROM (SELECT created_at FROM outbox_event ORDER BY position DESC LIMIT 1000)",
    )
    .fetch_one(&log.read)
    .await
    .map_err(error::log)?;
    let newest = newest.and_then(DateTime::<Utc>::from_timestamp_micros);
    let ahead = newest.and_then(|at| (at - Utc::now()).to_std().ok()).unwrap_or_default();
    if ahead > limits.clock {
        check.warning(
            format!("an event among the newest is dated {} in the future", spoken(ahead)),
            "set the writers' clocks (NTP): retention by age goes by them",
        );
    }
    Ok(check.or_ok("nobody is ahead"))
}
