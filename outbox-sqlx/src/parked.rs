//! From columns back to parked events, the same for every database.

use chrono::{DateTime, Utc};
use outbox_core::log::{LogError, ParkFailure, ParkState, ParkedEvent};

use crate::stored::{Columns, Decoder, corrupt};

/// How much of a reason is kept, in characters.
const REASON: usize = 2_000;

/// What a row of parked or discarded events says, as the database gives it.
pub(crate) struct ParkedColumns<'r> {
    pub(crate) event: Columns<'r>,
    pub(crate) state: &'r str,
    pub(crate) reason: String,
    pub(crate) attempts: i64,
    pub(crate) parked_at: DateTime<Utc>,
    pub(crate) retry_at: Option<DateTime<Utc>>,
}

/// # Errors
/// [`LogErrorKind::Corrupt`](outbox_core::log::LogErrorKind::Corrupt) when the row is none that this library writes.
pub(crate) fn event(decoder: &mut Decoder, row: ParkedColumns<'_>) -> Result<ParkedEvent, LogError> {
    let attempts = u32::try_from(row.attempts);
    Ok(ParkedEvent {
        event: decoder.event(&row.event)?,
        state: state(row.state)?,
        reason: row.reason,
        attempts: attempts.map_err(|_| corrupt(format!("{} is no number of attempts", row.attempts)))?,
        parked_at: row.parked_at,
        retry_at: row.retry_at,
    })
}

/// # Errors
/// [`LogErrorKind::Corrupt`](outbox_core::log::LogErrorKind::Corrupt) when the text is none of [`state_of`] or [`BEHIND`].
pub(crate) fn state(stored: &str) -> Result<ParkState, LogError> {
    match stored {
        RETRYING => Ok(ParkState::Retrying),
        PARKED => Ok(ParkState::Parked),
        BEHIND => Ok(ParkState::Behind),
        _ => Err(corrupt(format!("{stored:?} is no state of a parked event"))),
    }
}

const RETRYING: &str = "retrying";
const PARKED: &str = "parked";
/// The state of an event that did not fail itself.
pub(crate) const BEHIND: &str = "behind";

/// The state of an event that failed.
pub(crate) fn state_of(failure: &ParkFailure) -> &'static str {
    if failure.retry_in.is_some() { RETRYING } else { PARKED }
}

/// As much of the reason as is kept.
pub(crate) fn kept_reason(failure: &ParkFailure) -> &str {
    let reason = failure.reason.as_str();
    reason.char_indices().nth(REASON).map_or(reason, |(end, _)| &reason[..end])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn long_reasons_end_at_a_character() {
        let mut failure = ParkFailure { reason: "д".repeat(REASON + 1), attempts: 1, retry_in: None };
        assert_eq!(kept_reason(&failure), "д".repeat(REASON));
        assert_eq!(state(state_of(&failure)).expect("state"), ParkState::Parked);
        failure = ParkFailure { reason: "short".into(), attempts: 1, retry_in: Some(Duration::ZERO) };
        assert_eq!((kept_reason(&failure), state_of(&failure)), ("short", "retrying"));
        assert!(state("other").is_err());
    }
}
