//! What an error of the database means to a caller.

use outbox_core::{
    log::{LogError, LogErrorKind},
    outbox::{AppendError, AppendErrorKind},
};
use sqlx::{
    error::DatabaseError,
    postgres::{PgDatabaseError, PgSeverity},
};

/// An error of the log's own statements.
pub(super) fn log(error: sqlx::Error) -> LogError {
    let (kind, message) = match Class::of(&error) {
        Class::Away => (LogErrorKind::Unavailable, "the database cannot serve now; try again later"),
        Class::NoTables => (LogErrorKind::NotMigrated, NOT_MIGRATED),
        Class::ReadOnly => (
            LogErrorKind::ReadOnly,
            "the server or the session takes no writes; connect to the primary, and not as read only",
        ),
        Class::Undecodable => {
            (LogErrorKind::Corrupt, "a column is not of its type; the tables were changed from outside")
        }
        Class::Pooler => (LogErrorKind::Database, POOLER),
        Class::Forbidden => (
            LogErrorKind::Database,
            "the role lacks a right on the log's tables or functions; grant what the documentation lists under *Rights*",
        ),
        Class::Refused => (LogErrorKind::Database, "the database refused"),
    };
    LogError::new(kind, message).with_source(error)
}

/// An error in the caller's transaction.
pub(super) fn append(error: sqlx::Error) -> AppendError {
    let (kind, message) = match Class::of(&error) {
        Class::NoTables => (AppendErrorKind::NotMigrated, NOT_MIGRATED),
        Class::Pooler => (AppendErrorKind::Database, POOLER),
        _ => (AppendErrorKind::Database, "the events could not be written; roll the transaction back"),
    };
    AppendError::new(kind, message).with_source(error)
}

pub(super) const NOT_MIGRATED: &str = "the log's tables are missing; call `migrate` first";

const POOLER: &str = "a pooler mixes up prepared statements: use PgBouncer 1.21 or later with max_prepared_statements \
    above 0, or connect to the server itself";

enum Class {
    Away,
    /// A prepared statement is not there, or there twice, or another one: the server is not that where it was prepared.
    Pooler,
    NoTables,
    ReadOnly,
    Undecodable,
    Forbidden,
    Refused,
}

impl Class {
    fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::BeginFailed
            | sqlx::Error::WorkerCrashed => Self::Away,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::TypeNotFound { .. } => {
                Self::Undecodable
            }
            sqlx::Error::Database(error) if is_mix_up(&**error) => Self::Pooler,
            sqlx::Error::Database(error) => error.code().map_or(Self::Refused, |code| Self::of_state(&code)),
            _ => Self::Refused,
        }
    }

    fn of_state(code: &str) -> Self {
        match code {
            // Undefined table, invalid schema name.
            "42P01" | "3F000" => Self::NoTables,
            "25006" => Self::ReadOnly,
            "42501" => Self::Forbidden,
            // Invalid statement name, duplicate prepared statement.
            "26000" | "42P05" => Self::Pooler,
            // Serialization failure, deadlock, lock not available, query cancelled, idle in transaction, in a transaction
            // or in a session for too long, shutting down, crashed, starting up, in a state that passes, such as a
            // recovery; a connection left in the middle of a transaction.
            "25001" | "25P02" | "40001" | "40P01" | "55000" | "55P03" | "57014" | "25P03" | "25P04" | "57P01"
            | "57P02" | "57P03" | "57P05" => Self::Away,
            // Connection exceptions, among them what a pooler says that has no server; insufficient resources, such as too
            // many connections.
            _ if ["08", "53"].iter().any(|class| code.starts_with(class)) => Self::Away,
            _ => Self::Refused,
        }
    }
}

/// Whether a statement was bound that is another client's. The same SQLSTATE is that of a pooler which ends a connection
/// because no server could be had; only the message tells them apart.
fn is_mix_up(error: &dyn DatabaseError) -> bool {
    let fatal = error
        .try_downcast_ref::<PgDatabaseError>()
        .is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic));
    let about_statements =
        || ["bind message supplies", "prepared statement"].iter().any(|words| error.message().contains(words));
    error.code().as_deref() == Some("08P01") && !fatal && about_statements()
}
