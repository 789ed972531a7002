//! The facts of an event as headers with the library's own names, for formats whose body has no place for them.

use std::{str::FromStr, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

use super::{CodecError, CodecErrorKind, header::Name, header_list::HeaderList, text};
use crate::event::{Event, Headers, InvalidEvent, LogId, OrderingKey, Origin, RecordedEvent, Sequence};

/// The names of all headers that [`write`] may add, id, log and sequence.
const FIXED_BYTES: usize = 256;

/// An upper bound of what [`write`] adds, in bytes, with the media type of the body.
pub(super) fn bytes(event: &Event) -> usize {
    let ordering_key = event.ordering_key.as_ref().map_or(0, |key| key.as_str().len());
    FIXED_BYTES + names(event) + ordering_key
}

/// How long the names of every event are together.
pub(super) fn names(event: &Event) -> usize {
    event.event_type.as_str().len() + event.aggregate_type.as_str().len() + event.aggregate_id.as_str().len()
}

/// The most headers that [`write`] adds.
pub(super) const COUNT: usize = 8;

/// Adds identity, names and place. `content_type` adds the media type of the body.
pub(super) fn write(to: &mut HeaderList, recorded: &RecordedEvent, content_type: impl FnOnce(&mut HeaderList)) {
    let event = &recorded.event;
    to.write(Name::Id, |out| text::uuid(out, event.id));
    to.text(Name::Type, event.event_type.as_str());
    to.text(Name::AggregateType, event.aggregate_type.as_str());
    to.text(Name::AggregateId, event.aggregate_id.as_str());
    content_type(to);
    write_place(to, recorded);
}

/// Adds what tells duplicates and keys: the place, or that there is none, and the ordering key.
pub(super) fn write_place(to: &mut HeaderList, recorded: &RecordedEvent) {
    let event = &recorded.event;
    if event.unordered {
        // A sequence would make consumers drop an event that a newer one of its aggregate overtook.
        to.fixed(Name::Unordered, TRUE);
    } else {
        to.write(Name::Log, |out| text::uuid(out, recorded.origin.log.0));
        to.write(Name::Sequence, |out| text::number(out, recorded.origin.sequence.get(), 1));
    }
    if let Some(key) = &event.ordering_key {
        to.text(Name::OrderingKey, key.as_str());
    }
}

/// The value of a header that says yes.
pub(super) const TRUE: &str = "true";

/// The first value under this name, as text.
///
/// # Errors
/// [`CodecErrorKind::Field`] when it is not UTF-8.
pub(super) fn find<'h>(headers: &'h [(Arc<str>, Bytes)], name: &str) -> Result<Option<&'h str>, CodecError> {
    let Some((_, value)) = headers.iter().find(|(n, _)| &**n == name) else { return Ok(None) };
    std::str::from_utf8(value).map(Some).map_err(|e| unreadable(name).with_source(e))
}

/// As [`find`], and absence is an error too.
pub(super) fn require<'h>(headers: &'h [(Arc<str>, Bytes)], name: &str) -> Result<&'h str, CodecError> {
    find(headers, name)?
        .ok_or_else(|| CodecError::new(CodecErrorKind::Field, format!("the message has no header {name}")))
}

/// Whether a header is there and says yes; what says anything else is an error.
pub(super) fn flag(headers: &[(Arc<str>, Bytes)], name: &str) -> Result<bool, CodecError> {
    match find(headers, name)? {
        None => Ok(false),
        Some(TRUE) => Ok(true),
        Some(_) => Err(unreadable(name)),
    }
}

/// The ordering key, if there is one.
pub(super) fn ordering_key(headers: &[(Arc<str>, Bytes)], name: &str) -> Result<Option<OrderingKey>, CodecError> {
    find(headers, name)?.map(|key| parse(name, key)).transpose()
}

/// The event's place under these names. One without the other, or one that does not parse, is an error: duplicates
/// would go unnoticed.
pub(super) fn origin(
    headers: &[(Arc<str>, Bytes)],
    log_name: &str,
    sequence_name: &str,
) -> Result<Option<Origin>, CodecError> {
    place(find(headers, log_name)?, log_name, find(headers, sequence_name)?, sequence_name)
}

/// The event's place from its two texts, see [`origin`].
pub(super) fn place(
    log: Option<&str>,
    log_name: &str,
    sequence: Option<&str>,
    sequence_name: &str,
) -> Result<Option<Origin>, CodecError> {
    let (log, sequence) = match (log, sequence) {
        (None, None) => return Ok(None),
        (Some(log), Some(sequence)) => (log, sequence),
        (log, _) => {
            let (there, absent) = if log.is_some() { (log_name, sequence_name) } else { (sequence_name, log_name) };
            return Err(CodecError::new(CodecErrorKind::Field, format!("the message has {there} without {absent}")));
        }
    };
    let log = id(log_name, log)?;
    let raw: u64 = sequence.parse().map_err(|e: std::num::ParseIntError| unreadable(sequence_name).with_source(e))?;
    let sequence = Sequence::from_raw(raw).ok_or_else(|| unreadable(sequence_name))?;
    Ok(Some(Origin { log: LogId(log), sequence }))
}

/// A UUID under this name.
pub(super) fn id(name: &str, text: &str) -> Result<Uuid, CodecError> {
    Uuid::parse_str(text).map_err(|e| unreadable(name).with_source(e))
}

/// The event's own headers: all but those that are ours, which are parsed elsewhere.
pub(super) fn own<'h>(headers: impl IntoIterator<Item = &'h (Arc<str>, Bytes)>) -> Headers {
    let mut own = Headers::default();
    for (name, value) in headers {
        // What cannot be a header of an event is no fact of it.
        let _foreign = own.insert(name, value.clone());
    }
    own
}

/// A name of an event.
///
/// # Errors
/// [`CodecErrorKind::Field`] when the text is none that an event may have.
pub(super) fn parse<N: FromStr<Err = InvalidEvent>>(name: &str, text: &str) -> Result<N, CodecError> {
    text.parse()
        .map_err(|e| CodecError::new(CodecErrorKind::Field, format!("{name} of the message: {e}")).with_source(e))
}

/// A field that does not parse.
pub(super) fn unreadable(name: &str) -> CodecError {
    CodecError::new(CodecErrorKind::Field, format!("{name} of the message does not parse"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::header;

    fn headers(of: &[(&str, &[u8])]) -> Vec<(Arc<str>, Bytes)> {
        of.iter().map(|(name, value)| ((*name).into(), Bytes::copy_from_slice(value))).collect()
    }

    #[test]
    fn half_a_place_or_a_wrong_one_is_an_error() {
        const LOG: (&str, &[u8]) = (header::LOG, b"00000000-0000-0000-0000-000000000007");
        const SEQUENCE: (&str, &[u8]) = (header::SEQUENCE, b"99");
        let origin = |of: &[(&str, &[u8])]| origin(&headers(of), header::LOG, header::SEQUENCE);
        let whole = origin(&[LOG, SEQUENCE]).expect("a place").expect("there");
        assert_eq!((whole.log.0.as_u128(), whole.sequence.get()), (7, 99));
        assert_eq!(origin(&[]).expect("no place"), None);
        for wrong in [
            &[LOG] as &[_],
            &[SEQUENCE],
            &[(header::LOG, b"\xff"), SEQUENCE],
            &[(header::LOG, b"7"), SEQUENCE],
            &[LOG, (header::SEQUENCE, b"-1")],
            &[LOG, (header::SEQUENCE, b"18446744073709551615")],
        ] {
            assert_eq!(origin(wrong).expect_err("no place").kind(), CodecErrorKind::Field, "{wrong:?}");
        }
    }

    #[test]
    fn a_flag_says_yes_or_is_absent() {
        let flag = |of: &[(&str, &[u8])]| flag(&headers(of), header::UNORDERED);
        assert!(!flag(&[]).expect("absent"));
        assert!(flag(&[(header::UNORDERED, b"true")]).expect("yes"));
        for wrong in [&b"false"[..], b"", b"\xff"] {
            flag(&[(header::UNORDERED, wrong)]).expect_err("neither");
        }
    }
}
