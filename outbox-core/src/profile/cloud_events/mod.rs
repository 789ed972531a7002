//! CloudEvents 1.0 over the Kafka protocol binding.
//!
//! Written by hand rather than with the crate `cloudevents-sdk` (0.9): that keeps data as a parsed `serde_json::Value`,
//! so that every payload would be parsed and written anew, with its members in another order; its Kafka binding is bound
//! to another major of rdkafka than ours; and it would bring five crates for a format of fourteen attributes. The
//! messages are checked against the project's Python SDK, which reads them in `tests/wire`.

mod attributes;
mod binary;
mod source;
mod structured;

use std::sync::Arc;

use bytes::Bytes;
use chrono::Datelike;

use super::{CodecError, Decoder, Encoded, Encoder, ProfileError, facts, header};
use crate::event::{Event, Field, InvalidEvent, InvalidReason, ReceivedEvent, RecordedEvent};

/// CloudEvents 1.0 over the Kafka protocol binding, in structured or binary mode. Reads both, whichever it writes.
///
/// | Attribute | Fact |
/// |---|---|
/// | `id` | the event's id |
/// | `source` | as configured, else `urn:uuid:` and the log's id |
/// | `type` | the event's type |
/// | `subject` | the aggregate's id |
/// | `time` | when the writer made it, RFC 3339 with microseconds and `Z` |
/// | `datacontenttype` | the payload's media type; in binary mode the header `content-type` |
/// | `aggregatetype` | the aggregate's type |
/// | `partitionkey` | the message's key: the ordering key, or else the aggregate's id |
/// | `orderingkey` | the ordering key, when there is one |
/// | `logid`, `sequence` | the event's place: the log's id, and 19 digits that sort as text; not of unordered events |
/// | `unordered` | `true` on an unordered event, absent from others |
/// | `traceparent` | the header `traceparent` of the event, when it is one that W3C allows |
///
/// The event's own headers are headers of the message too; none may begin with `ce_`, and in binary mode all must be
/// UTF-8. In binary mode a tombstone has no body, and a compacted topic forgets the key when it meets one; in structured
/// mode it is an object without `data`.
///
/// Events of other producers are read when they have `aggregatetype`, `subject` and `time`, and a UUID as `id`. Their
/// further attributes are dropped. Whitespace around a JSON payload does not survive structured mode.
#[derive(Debug, Clone)]
pub struct CloudEvents {
    mode: Mode,
    source: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    Structured,
    Binary,
}

impl CloudEvents {
    /// One JSON object, `application/cloudevents+json`, with the attributes and the payload: as JSON when its content
    /// type is JSON, else in Base64.
    #[must_use]
    pub fn structured() -> Self {
        Self { mode: Mode::Structured, source: None }
    }

    /// The payload as it is, with the attributes in headers that begin with `ce_`.
    #[must_use]
    pub fn binary() -> Self {
        Self { mode: Mode::Binary, source: None }
    }

    /// Uses this source, a URI reference such as `https://example.org/tutors` or `/tutors`. Default: `urn:uuid:` and
    /// the log's id.
    ///
    /// # Errors
    /// [`ProfileError`] of the kind [`ProfileErrorKind::Source`](super::ProfileErrorKind::Source) when the text is
    /// empty, longer than 1,024 bytes or no URI reference.
    pub fn with_source(mut self, source: impl AsRef<str>) -> Result<Self, ProfileError> {
        self.source = Some(source::parse(source.as_ref())?);
        Ok(self)
    }
}

/// The prefix of the headers that carry attributes.
const PREFIX: &str = "ce_";

/// The names of all attributes as headers or members, the facts of a fixed length, and the media type of the body,
/// rounded up.
const FRAMING_BYTES: usize = 640;

impl Encoder for CloudEvents {
    fn check(&self, event: &Event) -> Result<usize, InvalidEvent> {
        let refuse = |field, detail| Err(InvalidEvent::new(field, InvalidReason::Unroutable { detail }));
        if let Some((name, _)) = event.headers.iter().find(|(name, _)| is_attribute(name)) {
            return refuse(
                Field::Header,
                format!("{name:?} begins with \"{PREFIX}\", which CloudEvents keep to themselves"),
            );
        }
        if let (Mode::Binary, Some((name, _))) = (self.mode, event.headers.iter().find(|(_, value)| !is_text(value))) {
            return refuse(
                Field::Header,
                format!("{name:?} is no UTF-8, which receivers of binary CloudEvents expect"),
            );
        }
        let ordering_key = event.ordering_key.as_ref().map(|key| (Field::OrderingKey, key.as_str()));
        let names = [
            (Field::EventType, event.event_type.as_str()),
            (Field::AggregateType, event.aggregate_type.as_str()),
            (Field::AggregateId, event.aggregate_id.as_str()),
            (Field::ContentType, event.content_type.as_str()),
        ];
        for (field, name) in names.into_iter().chain(ordering_key) {
            if name.chars().any(is_noncharacter) {
                return refuse(field, format!("{name:?} holds a Unicode noncharacter, which CloudEvents forbid"));
            }
        }
        if !(0..=9999).contains(&event.created_at.year()) {
            return refuse(Field::Message, format!("CloudEvents have no time of the year {}", event.created_at.year()));
        }
        let payload = event.payload.as_ref().map_or(0, Bytes::len);
        let (payload, escaping) = match self.mode {
            Mode::Binary => (payload, 1),
            Mode::Structured if event.content_type.is_json() => (payload, 2),
            Mode::Structured => (payload.div_ceil(3) * 4, 2),
        };
        Ok(payload + escaping * self.attribute_bytes(event) + event.headers.bytes())
    }

    fn encode(&self, recorded: &RecordedEvent) -> Result<Encoded, CodecError> {
        match self.mode {
            Mode::Structured => structured::encode(self, recorded),
            Mode::Binary => Ok(binary::encode(self, recorded)),
        }
    }
}

impl CloudEvents {
    /// An upper bound of all attributes, but for what JSON escapes in them.
    fn attribute_bytes(&self, event: &Event) -> usize {
        let ordering_key = event.ordering_key.as_ref().map_or(0, |key| key.as_str().len());
        let names = facts::names(event) + event.message_key().len() + ordering_key + event.content_type.as_str().len();
        FRAMING_BYTES + self.source.as_ref().map_or(0, |source| source.len()) + names
    }
}

impl Decoder for CloudEvents {
    fn decode(
        &self,
        _key: Option<&Bytes>,
        payload: Option<&Bytes>,
        headers: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError> {
        // The binding's rule; a body that is no structured event may be anything.
        match facts::find(headers, header::CONTENT_TYPE)? {
            Some(media_type) if structured::is_any(media_type) => structured::decode(media_type, payload, headers),
            _ => binary::decode(payload, headers),
        }
    }
}

fn is_attribute(name: &str) -> bool {
    name.as_bytes().get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
}

fn is_text(value: &Bytes) -> bool {
    std::str::from_utf8(value).is_ok()
}

fn is_noncharacter(c: char) -> bool {
    matches!(u32::from(c), 0xFDD0..=0xFDEF) || u32::from(c) & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NewEvent;

    #[test]
    fn what_cloud_events_cannot_carry_is_refused_at_append() {
        let event = || NewEvent::json("Tutor", 42, "TutorUpdated", &1).expect("event");
        let year_10000 = "+10000-01-01T00:00:00Z".parse().expect("time");
        let refused = [
            (event().with_header("CE_id", "x").expect("header"), Field::Header),
            (event().with_ordering_key("a\u{fffe}").expect("key"), Field::OrderingKey),
            (NewEvent::tombstone("\u{1ffff}", 1, "x").expect("event"), Field::AggregateType),
            (NewEvent::tombstone("x", "\u{fdd0}", "x").expect("event"), Field::AggregateId),
            (event().with_created_at(year_10000), Field::Message),
        ];
        for encoder in [CloudEvents::structured(), CloudEvents::binary()] {
            for (event, field) in &refused {
                assert_eq!(encoder.check(event.event()).expect_err("refused").field(), *field);
            }
            encoder.check(event().with_header("ce", "x").expect("header").event()).expect("no attribute");
        }
        let bytes = event().with_header("bytes", &b"\xff"[..]).expect("header");
        CloudEvents::structured().check(bytes.event()).expect("a header that nobody takes for an attribute");
        assert_eq!(CloudEvents::binary().check(bytes.event()).expect_err("refused").field(), Field::Header);
    }
}
