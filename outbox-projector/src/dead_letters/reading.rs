//! The events of letters, read by the decoder that can, and what is said of those that fail.

use outbox_core::{
    event::ReceivedEvent,
    profile::{CodecError, Decoder, RawPayload},
    projection::DeadLetterCause,
};
use uuid::Uuid;

/// Which decoder reads a letter.
pub(crate) fn decoder(is_raw_payload: bool, given: &dyn Decoder) -> &dyn Decoder {
    if is_raw_payload { &RawPayload } else { given }
}

/// Why there is no event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// What the decoder says may quote the record.
    #[error("it cannot be decoded")]
    Undecodable(#[source] CodecError),
    #[error("it decodes to another event: give the decoder that its source has")]
    AnotherEvent,
}

/// The event of the letter with this id, unless its record cannot be decoded, or is another event.
pub(crate) fn event_of(
    id: Uuid,
    cause: DeadLetterCause,
    decoded: Result<ReceivedEvent, CodecError>,
) -> Result<ReceivedEvent, Unreadable> {
    let received = decoded.map_err(Unreadable::Undecodable)?;
    if cause != DeadLetterCause::Undecodable && id != received.event.id {
        return Err(Unreadable::AnotherEvent);
    }
    Ok(received)
}

/// What a replay logs: only the error itself, as the runner does. Its causes may quote the payload.
pub(crate) fn warn(projection: &str, id: Uuid, place: &str, error: &dyn std::error::Error) {
    tracing::warn!(projection, %id, place, error = %error, "a replay failed");
}
