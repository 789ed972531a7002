//! Payloads that are JSON, carried as they are.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{CodecError, CodecErrorKind};

/// The one JSON value that a recorded payload is, without the whitespace around it.
///
/// # Errors
/// [`CodecErrorKind::Malformed`] when it is none: put into a body as it is, it could forge the rest of it.
pub(super) fn whole(payload: &[u8]) -> Result<&str, CodecError> {
    serde_json::from_slice::<&RawValue>(payload)
        .map(RawValue::get)
        .map_err(|e| CodecError::new(CodecErrorKind::Malformed, "the recorded payload is not JSON").with_source(e))
}

/// A member that is there, even as `null`, which an `Option` alone reads as absent.
pub(super) fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}
