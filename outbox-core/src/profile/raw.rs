use std::{str::FromStr, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{
    CodecError, Decoder, Encoded, Encoder, facts,
    header::{self, Name},
    header_list::HeaderList,
    text::{self, Zone},
};
use crate::event::{Event, InvalidEvent, ReceivedEvent, RecordedEvent};

/// The payload as it is, of any content type, with all other facts in headers (see [`header`]).
///
/// A tombstone has no body: a compacted topic forgets the key when it meets one. Reading needs the headers that this
/// encoder writes.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawPayload;

/// The name and the value of [`header::CREATED_AT`], rounded up.
const CREATED_AT_BYTES: usize = 64;

impl Encoder for RawPayload {
    fn check(&self, event: &Event) -> Result<usize, InvalidEvent> {
        let payload = event.payload.as_ref().map_or(0, Bytes::len);
        let facts = facts::bytes(event) + event.content_type.as_str().len() + CREATED_AT_BYTES;
        Ok(payload + facts + event.headers.bytes())
    }

    fn encode(&self, recorded: &RecordedEvent) -> Result<Encoded, CodecError> {
        let event = &recorded.event;
        let mut headers = HeaderList::with_room(facts::COUNT + 1, &event.headers);
        facts::write(&mut headers, recorded, |headers| headers.text(Name::ContentType, event.content_type.as_str()));
        headers.write(Name::CreatedAt, |out| text::time(out, event.created_at, Zone::Offset));
        Ok(Encoded { payload: event.payload.clone(), headers: headers.finish(&event.headers) })
    }
}

impl Decoder for RawPayload {
    fn decode(
        &self,
        _key: Option<&Bytes>,
        payload: Option<&Bytes>,
        headers: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError> {
        fn name<N: FromStr<Err = InvalidEvent>>(headers: &[(Arc<str>, Bytes)], name: &str) -> Result<N, CodecError> {
            facts::parse(name, facts::require(headers, name)?)
        }
        let created_at: DateTime<Utc> = facts::require(headers, header::CREATED_AT)?
            .parse()
            .map_err(|e: chrono::ParseError| facts::unreadable(header::CREATED_AT).with_source(e))?;
        let event = Event {
            id: facts::id(header::ID, facts::require(headers, header::ID)?)?,
            aggregate_type: name(headers, header::AGGREGATE_TYPE)?,
            aggregate_id: name(headers, header::AGGREGATE_ID)?,
            ordering_key: facts::ordering_key(headers, header::ORDERING_KEY)?,
            unordered: facts::flag(headers, header::UNORDERED)?,
            event_type: name(headers, header::TYPE)?,
            content_type: name(headers, header::CONTENT_TYPE)?,
            payload: payload.cloned(),
            headers: facts::own(headers),
            created_at,
        };
        Ok(ReceivedEvent { origin: facts::origin(headers, header::LOG, header::SEQUENCE)?, event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::NewEvent,
        profile::{CodecErrorKind, round_trip::recorded},
    };

    #[test]
    fn each_header_that_is_needed_is_missed() {
        let event = NewEvent::tombstone("Tutor", 42, "TutorErased").expect("event").into_event();
        let Encoded { payload, headers } = RawPayload.encode(&recorded(event)).expect("encoded");
        assert_eq!(payload, None);
        for absent in 0..headers.len() {
            let mut headers = headers.clone();
            let (name, _) = headers.remove(absent);
            let error = RawPayload.decode(None, None, &headers).expect_err(&name);
            assert_eq!(error.kind(), CodecErrorKind::Field);
            assert!(error.to_string().contains(&*name), "{name}: {error}");
        }
    }
}
