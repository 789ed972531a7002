use std::error::Error;

/// Whether an error says that the database is away or overloaded, so that the same request may succeed later. Looks
/// through the sources: the library wraps the driver's errors.
pub(crate) fn is_away(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(sqlx) = error.downcast_ref::<sqlx::Error>() {
            return sqlx_is_away(sqlx);
        }
        next = error.source();
    }
    false
}

fn sqlx_is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(e) => e.code().is_some_and(|code| passing(&code)),
        _ => false,
    }
}

/// PostgreSQL: connection exceptions, shutdown and start-up, too many connections, read-only after a fail-over,
/// deadlock and serialization failures. SQLite: busy and locked.
fn passing(code: &str) -> bool {
    let postgres = code.len() == 5
        && (code.starts_with("08") || code.starts_with("57P") || matches!(code, "53300" | "25006" | "40P01" | "40001"));
    // The low byte of an extended result code is the primary one.
    let sqlite = code.len() < 5 && code.parse().is_ok_and(|code: u32| matches!(code & 0xff, 5 | 6));
    postgres || sqlite
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_is_away() {
        for code in ["08006", "57P01", "57P03", "53300", "40P01", "5", "6", "517"] {
            assert!(passing(code), "{code}");
        }
        for code in ["23505", "42P01", "22P05", "1", "19", "2067"] {
            assert!(!passing(code), "{code}");
        }
    }

    #[test]
    fn sources_are_looked_through() {
        let wrapped = outbox_core::log::LogError::new(outbox_core::log::LogErrorKind::Database, "cannot read")
            .with_source(sqlx::Error::PoolTimedOut);
        assert!(is_away(&wrapped));
        assert!(!is_away(&sqlx::Error::RowNotFound));
    }
}
