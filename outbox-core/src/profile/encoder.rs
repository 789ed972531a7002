use std::sync::Arc;

use bytes::Bytes;

use crate::{
    error::kinded_error,
    event::{Event, InvalidEvent, ReceivedEvent, RecordedEvent},
};

/// Turns an event into a message's body and headers.
///
/// # Contract
/// What [`Encoder::check`] accepts, [`Encoder::encode`] encodes, into at most as many bytes as `check` returned.
/// Encoding the same event again gives the same bytes.
///
/// # Concurrency
/// Called from any thread.
///
/// # Errors
/// `check` refuses at append what could not be encoded later.
pub trait Encoder: Send + Sync {
    /// Whether the event can be encoded, and an upper bound of body and headers together, in bytes.
    ///
    /// # Errors
    /// [`InvalidEvent`] naming the field that cannot be carried.
    fn check(&self, event: &Event) -> Result<usize, InvalidEvent>;

    /// Encodes an event.
    ///
    /// # Errors
    /// [`CodecError`] when a stored event is not what `check` accepted.
    fn encode(&self, event: &RecordedEvent) -> Result<Encoded, CodecError>;
}

/// The body and headers of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The body; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<(Arc<str>, Bytes)>,
}

/// Turns a message back into an event.
///
/// # Contract
/// Decodes whatever its [`Encoder`] wrote to an equal event, and what others write in the same form.
///
/// # Concurrency
/// Called from any thread.
///
/// # Errors
/// Bytes that are not of the form are an error, never a panic and never another event.
pub trait Decoder: Send + Sync {
    /// Decodes a message's body and headers.
    ///
    /// # Errors
    /// [`CodecError`] that says what is missing or wrong.
    fn decode(
        &self,
        key: Option<&Bytes>,
        payload: Option<&Bytes>,
        headers: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError>;
}

kinded_error! {
    /// Why a message cannot be encoded or decoded.
    CodecError, CodecErrorKind
}

/// The kinds of [`CodecError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CodecErrorKind {
    /// The bytes are not of the form.
    Malformed,
    /// A field is missing or not of its type.
    Field,
}
