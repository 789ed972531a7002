use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    CodecError, CodecErrorKind, Decoder, Encoded, Encoder, facts,
    header::{self, Name},
    header_list::HeaderList,
    json,
    text::{self, Zone},
};
use crate::event::{
    AggregateId, AggregateType, ContentType, Event, EventType, Field, InvalidEvent, InvalidReason, ReceivedEvent,
    RecordedEvent,
};

/// One JSON object per event:
/// `{"event_id", "event_type", "aggregate_type", "aggregate_id", "payload", "created_at"}`.
///
/// The payload stands in it as JSON, so its content type must be JSON. A tombstone has the payload `null`: a body is
/// what consumers of this format expect. `created_at` is ISO 8601 with microseconds and `+00:00`. The same facts, with
/// log and sequence, are headers too (see [`header`]), for consumers that tell duplicates by them; consumers that read
/// only the body need none of them. An unordered event carries neither log nor sequence: its duplicates are told by its
/// id.
///
/// Whitespace around the payload is not part of it: it is not there any more when the message is read back.
#[derive(Debug, Clone, Copy, Default)]
pub struct SeedEnvelope;

/// The [`SeedEnvelope`] without the headers that only repeat its body: log and sequence are left, the ordering key, and
/// what the writer added. [`SeedEnvelope`] reads it.
///
/// For many small events: each header of a message costs the client about 0.5 µs, and the broker too. A consumer
/// that routes or filters by headers alone needs the other one.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeanEnvelope;

/// Braces, field names, id and time of the body, and names, id, log and sequence of the headers, rounded up. The
/// PostgreSQL function `outbox_append` counts the same way.
const FRAMING_BYTES: usize = 512;

impl Encoder for SeedEnvelope {
    fn check(&self, event: &Event) -> Result<usize, InvalidEvent> {
        if event.payload.is_some() && !event.content_type.is_json() {
            let detail = format!("{} cannot stand in a JSON envelope; use another encoder", event.content_type);
            return Err(InvalidEvent::new(Field::ContentType, InvalidReason::Unroutable { detail }));
        }
        // A name takes at most three times its bytes: twice that in JSON, as it holds no control character, and once in
        // its header.
        let names = 7 * facts::names(event);
        let ordering_key = event.ordering_key.as_ref().map_or(0, |k| k.as_str().len());
        let payload = event.payload.as_ref().map_or(4, Bytes::len);
        let payload_type = if is_plain_json(event) { 0 } else { event.content_type.as_str().len() };
        Ok(FRAMING_BYTES + names + ordering_key + payload + payload_type + event.headers.bytes())
    }

    fn encode(&self, recorded: &RecordedEvent) -> Result<Encoded, CodecError> {
        encode(recorded, |headers| {
            facts::write(headers, recorded, |headers| headers.fixed(Name::ContentType, "application/json"));
        })
    }
}

impl Encoder for LeanEnvelope {
    fn check(&self, event: &Event) -> Result<usize, InvalidEvent> {
        SeedEnvelope.check(event)
    }

    fn encode(&self, recorded: &RecordedEvent) -> Result<Encoded, CodecError> {
        encode(recorded, |headers| facts::write_place(headers, recorded))
    }
}

fn encode(recorded: &RecordedEvent, facts: impl FnOnce(&mut HeaderList)) -> Result<Encoded, CodecError> {
    let event = &recorded.event;
    let payload = event.payload.as_deref().map(json::whole).transpose()?;
    let mut headers = HeaderList::with_room(facts::COUNT + 2, &event.headers);
    facts(&mut headers);
    if event.payload.is_none() {
        headers.fixed(Name::Tombstone, facts::TRUE);
    }
    if !is_plain_json(event) {
        headers.text(Name::PayloadType, event.content_type.as_str());
    }
    Ok(Encoded { payload: Some(body(event, payload.unwrap_or("null"))), headers: headers.finish(&event.headers) })
}

fn body(event: &Event, payload: &str) -> Bytes {
    // Exactly as long as the body, unless a name needs escaping: what fits exactly is not allocated twice.
    let mut out = Vec::with_capacity(SKELETON_BYTES + facts::names(event) + payload.len());
    out.extend_from_slice(b"{\"event_id\":\"");
    text::uuid(&mut out, event.id);
    out.extend_from_slice(b"\",\"event_type\":");
    text::json_string(&mut out, event.event_type.as_str());
    out.extend_from_slice(b",\"aggregate_type\":");
    text::json_string(&mut out, event.aggregate_type.as_str());
    out.extend_from_slice(b",\"aggregate_id\":");
    text::json_string(&mut out, event.aggregate_id.as_str());
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(payload.as_bytes());
    out.extend_from_slice(b",\"created_at\":\"");
    text::time(&mut out, event.created_at, Zone::Offset);
    out.extend_from_slice(b"\"}");
    out.into()
}

/// A body without names and payload.
const SKELETON_BYTES: usize = concat!(
    r#"{"event_id":"01900000-0000-7000-8000-000000000000","event_type":"","aggregate_type":"","aggregate_id":"","#,
    r#""payload":,"created_at":"2026-01-02T03:04:05.000006+00:00"}"#
)
.len();

fn is_plain_json(event: &Event) -> bool {
    event.content_type.as_str() == "application/json"
}

#[derive(Deserialize)]
struct Body<'a> {
    event_id: Uuid,
    event_type: String,
    aggregate_type: String,
    aggregate_id: String,
    #[serde(borrow, default, deserialize_with = "json::present")]
    payload: Option<&'a RawValue>,
    created_at: DateTime<Utc>,
}

impl Decoder for LeanEnvelope {
    fn decode(
        &self,
        key: Option<&Bytes>,
        payload: Option<&Bytes>,
        headers: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError> {
        SeedEnvelope.decode(key, payload, headers)
    }
}

impl Decoder for SeedEnvelope {
    fn decode(
        &self,
        _key: Option<&Bytes>,
        payload: Option<&Bytes>,
        headers: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError> {
        let bytes = payload.ok_or_else(|| {
            CodecError::new(CodecErrorKind::Malformed, "the message has no body; expected a JSON envelope")
        })?;
        let body: Body<'_> = serde_json::from_slice(bytes).map_err(|e| {
            let message = format!("the body is not the JSON envelope ({e})");
            CodecError::new(CodecErrorKind::Malformed, message).with_source(e)
        })?;
        let field =
            |e: InvalidEvent| CodecError::new(CodecErrorKind::Field, format!("the envelope's {e}")).with_source(e);
        let tombstone = facts::flag(headers, header::TOMBSTONE)?;
        let content_type = facts::find(headers, header::PAYLOAD_TYPE)?
            .map_or_else(|| Ok(ContentType::json()), |text| facts::parse(header::PAYLOAD_TYPE, text))?;
        let event = Event {
            id: body.event_id,
            aggregate_type: AggregateType::parse(body.aggregate_type).map_err(field)?,
            aggregate_id: AggregateId::parse(body.aggregate_id).map_err(field)?,
            ordering_key: facts::ordering_key(headers, header::ORDERING_KEY)?,
            unordered: facts::flag(headers, header::UNORDERED)?,
            event_type: EventType::parse(body.event_type).map_err(field)?,
            content_type,
            payload: body.payload.filter(|_| !tombstone).map(|raw| bytes.slice_ref(raw.get().as_bytes())),
            headers: facts::own(headers),
            created_at: body.created_at,
        };
        Ok(ReceivedEvent { origin: facts::origin(headers, header::LOG, header::SEQUENCE)?, event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREIGN: &[u8] =
        br#"{"event_id": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "event_type": "TutorDeleted", "aggregate_type": "Tutor",
             "aggregate_id": "7", "payload": {"id": 7}, "created_at": "2025-12-25T10:00:00+00:00", "more": 1}"#;

    fn decode(body: &'static [u8]) -> Result<ReceivedEvent, CodecError> {
        SeedEnvelope.decode(None, Some(&Bytes::from_static(body)), &[])
    }

    #[test]
    fn a_message_of_the_original_writer_has_no_origin() {
        let received = decode(FOREIGN).expect("decoded");
        assert_eq!(received.origin, None);
        assert_eq!(received.event.payload.as_deref(), Some(&br#"{"id": 7}"#[..]));
    }

    #[test]
    fn other_bytes_are_an_error() {
        for body in [&b""[..], b"not json", b"[]", br#"{"event_id":"x"}"#] {
            assert_eq!(decode(body).expect_err("malformed").kind(), CodecErrorKind::Malformed);
        }
        assert_eq!(SeedEnvelope.decode(None, None, &[]).expect_err("no body").kind(), CodecErrorKind::Malformed);
    }

    #[test]
    fn what_is_no_json_is_refused_at_append_and_never_written() {
        let event = crate::event::NewEvent::json("Tutor", 1, "TutorCreated", &1).expect("event").into_event();
        let text = Event { content_type: ContentType::parse("text/plain").expect("type"), ..event.clone() };
        assert_eq!(SeedEnvelope.check(&text).expect_err("text").field(), Field::ContentType);
        for bad in [&b""[..], b"{", b"1,\"event_id\":2", b"\"\xff\""] {
            let event = Event { payload: Some(Bytes::from_static(bad)), ..event.clone() };
            let refused = SeedEnvelope.encode(&super::super::round_trip::recorded(event)).expect_err("no JSON");
            assert_eq!(refused.kind(), CodecErrorKind::Malformed);
        }
    }
}
