//! What an error of the database means to a caller.

use outbox_core::{
    log::{LogError, LogErrorKind},
    outbox::{AppendError, AppendErrorKind},
};

/// An error of the log's own statements.
pub(super) fn log(error: sqlx::Error) -> LogError {
    let (kind, message) = match Class::of(&error) {
        Class::Away => {
            (LogErrorKind::Unavailable, "the database is busy, or its file cannot be used now; try again later")
        }
        Class::NoTables => (LogErrorKind::NotMigrated, NOT_MIGRATED),
        Class::ReadOnly => (LogErrorKind::ReadOnly, "the database file takes no writes"),
        Class::Undecodable => {
            (LogErrorKind::Corrupt, "a column is not of its type; the tables were changed from outside")
        }
        Class::Refused => (LogErrorKind::Database, "the database refused"),
    };
    LogError::new(kind, message).with_source(error)
}

/// An error in the caller's transaction.
pub(super) fn append(error: sqlx::Error) -> AppendError {
    let (kind, message) = match Class::of(&error) {
        Class::NoTables => (AppendErrorKind::NotMigrated, NOT_MIGRATED),
        Class::Away => (
            AppendErrorKind::Database,
            "the database is busy; roll the transaction back and try again (with BEGIN IMMEDIATE it would wait instead)",
        ),
        _ => (AppendErrorKind::Database, "the events could not be written; roll the transaction back"),
    };
    AppendError::new(kind, message).with_source(error)
}

pub(super) const NOT_MIGRATED: &str = "the log's tables are missing; call `migrate` first";

enum Class {
    Away,
    NoTables,
    ReadOnly,
    Undecodable,
    Refused,
}

impl Class {
    fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => Self::Away,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Undecodable,
            // SQLite has no code of its own for a missing table.
            sqlx::Error::Database(error) if error.message().starts_with("no such table: outbox_") => Self::NoTables,
            // The primary code is the low byte of an extended one: SQLITE_BUSY, LOCKED, NOMEM, READONLY, INTERRUPT,
            // IOERR, FULL, CANTOPEN, PROTOCOL. A full disk passes when somebody makes room.
            sqlx::Error::Database(error) => match error.code().and_then(|code| code.parse::<u32>().ok()) {
                Some(code) if matches!(code & 0xff, 5 | 6 | 7 | 9 | 10 | 13 | 14 | 15) => Self::Away,
                Some(code) if code & 0xff == 8 => Self::ReadOnly,
                _ => Self::Refused,
            },
            _ => Self::Refused,
        }
    }
}
