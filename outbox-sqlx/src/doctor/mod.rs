//! What hurts a log, or others because of it, looked for before it does.
//!
//! [`PostgresLog::examine`](crate::PostgresLog::examine) and [`SqliteLog::examine`](crate::SqliteLog::examine) make the
//! checks; the `outbox doctor` command prints what they find. The checks only read, but for what they say themselves.

mod consumers;

use std::{future::Future, time::Duration};

use outbox_core::{
    error::chain,
    log::{LogAdmin, LogError},
};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The name of the check; the same in every version. A check that found several things has a finding for each.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was seen.
    pub message: String,
    /// What to do about it, when it is not fine.
    pub advice: Option<String>,
}

/// How bad a finding is, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It will hurt if it goes on, or could not be looked at.
    Warning,
    /// It hurts now, or events are at risk.
    Problem,
}

impl Level {
    /// `ok`, `warning`, `problem`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// From where on something is worth a finding. Twelve times as long is a problem where less is a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How long a transaction may be open. Default: 5 minutes.
    pub transaction: Duration,
    /// How long a consumer that has something to do may go without a checkpoint. Default: one day.
    pub idle: Duration,
    /// How old events may get that every consumer has passed. Default: 14 days.
    pub retained: Duration,
    /// How large the write-ahead log of a SQLite file may get. Default: 64 MiB.
    pub wal_bytes: u64,
    /// How much write-ahead log a replication slot of PostgreSQL may keep. Default: 1 GiB.
    pub slot_bytes: u64,
    /// How far the clock of a writer or a member may be ahead of the database's. Default: 5 seconds.
    pub clock: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transaction: Duration::from_mins(5),
            idle: Duration::from_hours(24),
            retained: Duration::from_hours(14 * 24),
            wal_bytes: 64 << 20,
            slot_bytes: 1 << 30,
            clock: Duration::from_secs(5),
        }
    }
}

/// The findings of one check in the making.
#[derive(Debug)]
pub(crate) struct Check {
    name: &'static str,
    findings: Vec<Finding>,
}

impl Check {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, findings: Vec::new() }
    }

    pub(crate) fn warning(&mut self, message: impl Into<String>, advice: impl Into<String>) {
        self.add(Level::Warning, message.into(), Some(advice.into()));
    }

    pub(crate) fn problem(&mut self, message: impl Into<String>, advice: impl Into<String>) {
        self.add(Level::Problem, message.into(), Some(advice.into()));
    }

    /// What was found, or that it is fine.
    pub(crate) fn or_ok(mut self, message: impl Into<String>) -> Vec<Finding> {
        if self.findings.is_empty() {
            self.add(Level::Ok, message.into(), None);
        }
        self.findings
    }

    fn add(&mut self, level: Level, message: String, advice: Option<String>) {
        self.findings.push(Finding { check: self.name, level, message, advice });
    }
}

/// Runs one check. One that fails is a finding too, and no reason to leave out the others.
pub(crate) async fn look(
    findings: &mut Vec<Finding>,
    name: &'static str,
    check: impl Future<Output = Result<Vec<Finding>, LogError>>,
) {
    findings.extend(check.await.unwrap_or_else(|error| {
        let mut check = Check::new(name);
        let advice = "see whether the role may read the log's tables and the server's statistics";
        check.warning(format!("could not be looked at: {}", chain(&error)), advice);
        check.or_ok("")
    }));
}

/// The checks that are the same for every log.
pub(crate) async fn look_at_consumers(findings: &mut Vec<Finding>, log: &dyn LogAdmin, limits: &Limits) {
    match log.consumers().await {
        Ok(known) => {
            findings.extend(consumers::abandoned(&known, limits));
            findings.extend(consumers::ownerless(&known));
        }
        Err(error) => look(findings, "consumers", async { Err(error) }).await,
    }
}

/// `3 min`, for messages.
pub(crate) fn spoken(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7_199 => format!("{} min", s / 60),
        s @ 7_200..=172_799 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

/// `12 MiB`, for messages.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..=10_239 => format!("{bytes} bytes"),
        10_240..=10_485_759 => format!("{} KiB", bytes >> 10),
        10_485_760..=10_737_418_239 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// When a UUID of version 7 was made, by the clock of its maker.
#[cfg(feature = "postgres")]
pub(crate) fn clock_of(id: uuid::Uuid) -> Option<chrono::DateTime<chrono::Utc>> {
    let (seconds, nanos) = (id.get_version_num() == 7).then(|| id.get_timestamp())??.to_unix();
    chrono::DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}
