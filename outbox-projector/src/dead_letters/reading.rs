//! The events of letters, read by the decoder that can.

use outbox_core::{
    error::chain,
    event::ReceivedEvent,
    profile::{CodecError, Decoder, RawPayload},
    projection::{DeadLetter, DeadLetterCause},
};
use uuid::Uuid;

/// Whether [`RawPayload`] gives the very event of a letter back, as it does for one that came straight from a log: other
/// encoders write its headers too, around another body. An event without a sequence counts as unordered there.
pub(crate) fn is_raw_payload(letter: &DeadLetter) -> bool {
    let Some(received) = &letter.event else { return false };
    let read = RawPayload.decode(letter.key.as_ref(), letter.payload.as_ref(), &letter.headers);
    read.is_ok_and(|mut read| {
        read.event.unordered = received.event.unordered;
        read == *received
    })
}

/// Which decoder reads a letter.
pub(crate) fn decoder(is_raw_payload: bool, given: &dyn Decoder) -> &dyn Decoder {
    if is_raw_payload { &RawPayload } else { given }
}

/// The event of the letter with this id, unless its record cannot be decoded, or is another event.
pub(crate) fn event_of(
    id: Uuid,
    cause: DeadLetterCause,
    decoded: Result<ReceivedEvent, CodecError>,
) -> Result<ReceivedEvent, String> {
    let received = decoded.map_err(|error| format!("it cannot be decoded: {}", chain(&error)))?;
    if cause != DeadLetterCause::Undecodable && id != received.event.id {
        return Err("it decodes to another event: give the decoder that its source has".to_owned());
    }
    Ok(received)
}
