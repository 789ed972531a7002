//! What is the database's trouble, and what an event's.

/// Whether the database is away, overloaded or asks to be tried again, whatever event it was about.
pub(super) fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(said) => said.code().is_some_and(|code| passes(&code)),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Configuration(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        _ => false,
    }
}

fn passes(code: &str) -> bool {
    // A SQLSTATE has five characters, and no code of SQLite has that many.
    if code.len() == 5 { passes_on_postgres(code) } else { passes_on_sqlite(code) }
}

fn passes_on_postgres(state: &str) -> bool {
    // Connection, authorisation, no such database, conflict with another transaction, resources, operator, system.
    const CLASSES: [&str; 7] = ["08", "28", "3D", "40", "53", "57", "58"];
    // A standby answers read_only_sql_transaction; lock_not_available. And a schema that is not as the program knows it,
    // as between two steps of a deployment: no such table or column, no right to it, a plan or statement that is void.
    const STATES: [&str; 7] = ["25006", "55P03", "42P01", "42703", "42501", "26000", "0A000"];
    // Cancelled, as by a statement timeout: with this event it may well be every time.
    const EVENTS: [&str; 1] = ["57014"];
    !EVENTS.contains(&state) && (CLASSES.iter().any(|class| state.starts_with(class)) || STATES.contains(&state))
}

fn passes_on_sqlite(code: &str) -> bool {
    // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN; what stands above the first byte tells details.
    const CODES: [u32; 8] = [5, 6, 7, 8, 9, 10, 13, 14];
    code.parse::<u32>().is_ok_and(|code| CODES.contains(&(code & 0xff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_blamed_for_constraints_and_types_only() {
        for state in ["08006", "28P01", "3D000", "40001", "40P01", "53300", "57P01", "58030", "25006", "55P03", "42P01"]
        {
            assert!(passes(state), "{state}");
        }
        for state in ["23505", "22P02", "22001", "57014", "25P02", "P0001"] {
            assert!(!passes(state), "{state}");
        }
        for code in ["5", "517", "6", "10", "266", "8714", "13", "14"] {
            assert!(passes(code), "{code}");
        }
        for code in ["1", "19", "2067", "787", "20", "25"] {
            assert!(!passes(code), "{code}");
        }
        assert!(is_unavailable(&sqlx::Error::PoolTimedOut));
        assert!(!is_unavailable(&sqlx::Error::RowNotFound));
    }
}
