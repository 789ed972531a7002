use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{CodecError, CodecErrorKind, Decoder, Encoded, Encoder};
use crate::event::{
    AggregateId, AggregateType, ContentType, Event, EventType, Field, Headers, InvalidEvent, InvalidReason, LogId,
    OrderingKey, Origin, ReceivedEvent, RecordedEvent, Sequence,
};

/// The names of the headers that encoders write.
pub mod header {
    /// The log's id, a UUID as text. Absent from an unordered event.
    pub const LOG: &str = "outbox-log";
    /// The event's id, a UUID as text.
    pub const ID: &str = "outbox-id";
    /// The event's type.
    pub const TYPE: &str = "outbox-type";
    /// The aggregate's type.
    pub const AGGREGATE_TYPE: &str = "outbox-aggregate-type";
    /// The aggregate's id.
    pub const AGGREGATE_ID: &str = "outbox-aggregate-id";
    /// The event's place in its log, decimal. Absent from an unordered event.
    pub const SEQUENCE: &str = "outbox-sequence";
    /// The ordering key, when there is one.
    pub const ORDERING_KEY: &str = "outbox-ordering-key";
    /// `true` on an unordered event, absent from others.
    pub const UNORDERED: &str = "outbox-unordered";
    /// The media type of the body.
    pub const CONTENT_TYPE: &str = "content-type";
}

/// One JSON object per event:
/// `{"event_id", "event_type", "aggregate_type", "aggregate_id", "payload", "created_at"}`.
///
/// The payload stands in it as JSON, so its content type must be JSON; a tombstone is `null`. `created_at` is ISO 8601
/// with microseconds and `+00:00`. The same facts, with log and sequence, are headers too (see [`header`]), for
/// consumers that tell duplicates by them; consumers that read only the body need none of them. An unordered event
/// carries neither log nor sequence: its duplicates are told by its id.
#[derive(Debug, Clone, Copy, Default)]
pub struct SeedEnvelope;

#[derive(Serialize)]
struct Written<'a> {
    event_id: Uuid,
    event_type: &'a str,
    aggregate_type: &'a str,
    aggregate_id: &'a str,
    payload: Option<&'a RawValue>,
    created_at: String,
}

#[derive(Deserialize)]
struct Read<'a> {
    event_id: Uuid,
    event_type: String,
    aggregate_type: String,
    aggregate_id: String,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    created_at: DateTime<Utc>,
}

/// Braces, field names, id and time of the body, and names, id, log and sequence of the headers, rounded up.
const FRAMING_BYTES: usize = 512;

impl Encoder for SeedEnvelope {
    fn check(&self, event: &Event) -> Result<usize, InvalidEvent> {
        if event.payload.is_some() && !event.content_type.is_json() {
            let detail = format!("{} cannot stand in a JSON envelope; use another encoder", event.content_type);
            return Err(InvalidEvent::new(Field::ContentType, InvalidReason::Unroutable { detail }));
        }
        // In JSON a character of a name takes at most six times its bytes; in the headers it stands as it is.
        let names =
            event.event_type.as_str().len() + event.aggregate_type.as_str().len() + event.aggregate_id.as_str().len();
        let ordering_key = event.ordering_key.as_ref().map_or(0, |k| k.as_str().len());
        let payload = event.payload.as_ref().map_or(4, Bytes::len);
        Ok(FRAMING_BYTES + 7 * names + ordering_key + payload + event.headers.bytes())
    }

    fn encode(&self, recorded: &RecordedEvent) -> Result<Encoded, CodecError> {
        let event = &recorded.event;
        let payload = event.payload.as_deref().map(serde_json::from_slice::<&RawValue>).transpose().map_err(|e| {
            CodecError::new(CodecErrorKind::Malformed, "the recorded payload is not JSON").with_source(e)
        })?;
        let body = serde_json::to_vec(&Written {
            event_id: event.id,
            event_type: event.event_type.as_str(),
            aggregate_type: event.aggregate_type.as_str(),
            aggregate_id: event.aggregate_id.as_str(),
            payload,
            created_at: event.created_at.to_rfc3339_opts(SecondsFormat::Micros, false),
        })
        .map_err(|e| CodecError::new(CodecErrorKind::Malformed, "the envelope does not serialise").with_source(e))?;
        Ok(Encoded { payload: Some(body.into()), headers: headers(recorded) })
    }
}

fn headers(recorded: &RecordedEvent) -> Vec<(Arc<str>, Bytes)> {
    use std::sync::LazyLock;
    static NAMES: LazyLock<[Arc<str>; 9]> = LazyLock::new(|| {
        [
            header::ID,
            header::TYPE,
            header::AGGREGATE_TYPE,
            header::AGGREGATE_ID,
            header::CONTENT_TYPE,
            header::LOG,
            header::SEQUENCE,
            header::UNORDERED,
            header::ORDERING_KEY,
        ]
        .map(Arc::from)
    });
    let [id, event_type, aggregate_type, aggregate_id, content_type, log, sequence, unordered, ordering_key] = &*NAMES;
    let event = &recorded.event;
    let text = |s: &str| Bytes::copy_from_slice(s.as_bytes());
    let mut headers = Vec::with_capacity(NAMES.len() + event.headers.iter().len());
    let mut push = |name: &Arc<str>, value: Bytes| headers.push((name.clone(), value));
    push(id, event.id.to_string().into());
    push(event_type, text(event.event_type.as_str()));
    push(aggregate_type, text(event.aggregate_type.as_str()));
    push(aggregate_id, text(event.aggregate_id.as_str()));
    push(content_type, Bytes::from_static(b"application/json"));
    if event.unordered {
        // A sequence would make consumers drop an event that a newer one of its aggregate overtook.
        push(unordered, Bytes::from_static(TRUE.as_bytes()));
    } else {
        push(log, recorded.origin.log.to_string().into());
        push(sequence, recorded.origin.sequence.to_string().into());
    }
    if let Some(key) = &event.ordering_key {
        push(ordering_key, text(key.as_str()));
    }
    headers.extend(event.headers.iter().map(|(name, value)| (name.into(), value.clone())));
    headers
}

const TRUE: &str = "true";

impl Decoder for SeedEnvelope {
    fn decode(
        &self,
        _key: Option<&Bytes>,
        payload: Option<&Bytes>,
        headers: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError> {
        let body = payload.ok_or_else(|| {
            CodecError::new(CodecErrorKind::Malformed, "the message has no body; expected a JSON envelope")
        })?;
        let read: Read<'_> = serde_json::from_slice(body).map_err(|e| {
            let message = format!("the body is not the JSON envelope ({e})");
            CodecError::new(CodecErrorKind::Malformed, message).with_source(e)
        })?;
        let field =
            |e: InvalidEvent| CodecError::new(CodecErrorKind::Field, format!("the envelope's {e}")).with_source(e);
        let ordering_key = find(headers, header::ORDERING_KEY).map(OrderingKey::parse).transpose().map_err(field)?;
        let mut own = Headers::default();
        for (name, value) in headers {
            // The reserved names are ours and parsed elsewhere; what cannot be a header of an event is no fact of it.
            let _foreign = own.insert(name, value.clone());
        }
        let event = Event {
            id: read.event_id,
            aggregate_type: AggregateType::parse(read.aggregate_type).map_err(field)?,
            aggregate_id: AggregateId::parse(read.aggregate_id).map_err(field)?,
            ordering_key,
            unordered: find(headers, header::UNORDERED) == Some(TRUE),
            event_type: EventType::parse(read.event_type).map_err(field)?,
            content_type: ContentType::json(),
            payload: read.payload.map(|raw| body.slice_ref(raw.get().as_bytes())),
            headers: own,
            created_at: read.created_at,
        };
        Ok(ReceivedEvent { origin: origin(headers)?, event })
    }
}

/// Both headers or neither; one that does not parse is an error, since duplicates would go unnoticed.
fn origin(headers: &[(Arc<str>, Bytes)]) -> Result<Option<Origin>, CodecError> {
    let (Some(log), Some(sequence)) = (find(headers, header::LOG), find(headers, header::SEQUENCE)) else {
        return Ok(None);
    };
    let bad = |name| CodecError::new(CodecErrorKind::Field, format!("header {name} does not parse"));
    let log = Uuid::parse_str(log).map_err(|e| bad(header::LOG).with_source(e))?;
    let raw: u64 = sequence.parse().map_err(|e: std::num::ParseIntError| bad(header::SEQUENCE).with_source(e))?;
    let sequence = Sequence::from_raw(raw).ok_or_else(|| bad(header::SEQUENCE))?;
    Ok(Some(Origin { log: LogId(log), sequence }))
}

fn find<'h>(headers: &'h [(Arc<str>, Bytes)], name: &str) -> Option<&'h str> {
    let (_, value) = headers.iter().find(|(n, _)| &**n == name)?;
    std::str::from_utf8(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{LaneCount, NewEvent, TraceParent};

    fn recorded(event: NewEvent) -> RecordedEvent {
        let event = event.into_event();
        RecordedEvent {
            origin: Origin { log: LogId(Uuid::from_u128(7)), sequence: Sequence::new(1, 99).expect("sequence") },
            lane: LaneCount::default().lane_of(&event.lane_key()),
            event,
        }
    }

    fn tutor() -> NewEvent {
        NewEvent::json("Tutor", 42, "TutorUpdated", &serde_json::json!({"id": 42, "full_name": "Анна \"A\""}))
            .expect("event")
            .with_id(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001))
            .with_created_at("2026-01-02T03:04:05.000006Z".parse().expect("time"))
    }

    #[test]
    fn the_body_is_the_seeds() {
        let encoded = SeedEnvelope.encode(&recorded(tutor())).expect("encoded");
        let golden = concat!(
            r#"{"event_id":"01900000-0000-7000-8000-000000000001","event_type":"TutorUpdated","aggregate_type":"Tutor","#,
            r#""aggregate_id":"42","payload":{"full_name":"Анна \"A\"","id":42},"created_at":"2026-01-02T03:04:05.000006+00:00"}"#,
        );
        assert_eq!(std::str::from_utf8(&encoded.payload.expect("body")), Ok(golden));
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let event = tutor().with_ordering_key("room/1").expect("key").with_header("tenant", "a").expect("header");
        let recorded = recorded(event);
        let encoded = SeedEnvelope.encode(&recorded).expect("encoded");
        let received = SeedEnvelope.decode(None, encoded.payload.as_ref(), &encoded.headers).expect("decoded");
        assert_eq!(received, ReceivedEvent::from(recorded));
    }

    #[test]
    fn an_unordered_event_carries_no_sequence() {
        let recorded = recorded(tutor().unordered());
        let encoded = SeedEnvelope.encode(&recorded).expect("encoded");
        for absent in [header::LOG, header::SEQUENCE] {
            assert_eq!(find(&encoded.headers, absent), None, "{absent}");
        }
        assert_eq!(find(&encoded.headers, header::ID), Some("01900000-0000-7000-8000-000000000001"));
        let received = SeedEnvelope.decode(None, encoded.payload.as_ref(), &encoded.headers).expect("decoded");
        assert_eq!(received.origin, None);
        assert_eq!(received, ReceivedEvent::from(recorded));
    }

    #[test]
    fn a_trace_parent_becomes_a_header_of_the_message() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = TraceParent::parse(text).expect("parent");
        let encoded = SeedEnvelope.encode(&recorded(tutor().with_trace_parent(&parent))).expect("encoded");
        assert_eq!(find(&encoded.headers, TraceParent::HEADER), Some(text));
    }

    #[test]
    fn check_bounds_the_encoded_size() {
        let event = tutor().with_ordering_key("\u{2028}\"\\").expect("key");
        let bound = SeedEnvelope.check(event.event()).expect("check");
        let encoded = SeedEnvelope.encode(&recorded(event)).expect("encoded");
        let headers: usize = encoded.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        assert!(encoded.payload.expect("body").len() + headers <= bound);
    }

    #[test]
    fn a_message_of_the_original_writer_has_no_origin() {
        let body = Bytes::from_static(
            br#"{"event_id": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "event_type": "TutorDeleted", "aggregate_type": "Tutor",
                 "aggregate_id": "7", "payload": {"id": 7}, "created_at": "2025-12-25T10:00:00+00:00", "more": 1}"#,
        );
        let received = SeedEnvelope.decode(None, Some(&body), &[]).expect("decoded");
        assert_eq!(received.origin, None);
        assert_eq!(received.event.payload.as_deref(), Some(&br#"{"id": 7}"#[..]));
    }

    #[test]
    fn other_bytes_are_an_error() {
        let bodies: [&'static [u8]; 4] = [b"", b"not json", b"[]", br#"{"event_id":"x"}"#];
        for body in bodies {
            let error = SeedEnvelope.decode(None, Some(&Bytes::from_static(body)), &[]).expect_err("malformed");
            assert_eq!(error.kind(), CodecErrorKind::Malformed);
        }
        assert_eq!(SeedEnvelope.decode(None, None, &[]).expect_err("no body").kind(), CodecErrorKind::Malformed);
    }
}
