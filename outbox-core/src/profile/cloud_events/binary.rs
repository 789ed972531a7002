use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use super::{
    CloudEvents,
    attributes::{COUNT, Received, Value},
};
use crate::{
    event::{ReceivedEvent, RecordedEvent},
    profile::{CodecError, Encoded, facts, header::Name, header_list::HeaderList},
};

pub(super) fn encode(encoder: &CloudEvents, recorded: &RecordedEvent) -> Encoded {
    let event = &recorded.event;
    let mut headers = HeaderList::with_room(COUNT, &event.headers);
    encoder.attributes(recorded, |name, value| match value {
        Value::Text(text) => headers.text(name, text),
        Value::Fixed(text) => headers.fixed(name, text),
        _ => headers.write(name, |out| value.write(out)),
    });
    Encoded { payload: event.payload.clone(), headers: headers.finish(&event.headers) }
}

pub(super) fn decode(payload: Option<&Bytes>, headers: &[(Arc<str>, Bytes)]) -> Result<ReceivedEvent, CodecError> {
    let optional = |name: Name| Ok(facts::find(headers, name.text())?.map(Cow::Borrowed));
    let received = Received {
        specversion: facts::require(headers, Name::CeSpecVersion.text())?.into(),
        id: facts::require(headers, Name::CeId.text())?.into(),
        event_type: facts::require(headers, Name::CeType.text())?.into(),
        subject: optional(Name::CeSubject)?,
        time: optional(Name::CeTime)?,
        aggregate_type: optional(Name::CeAggregateType)?,
        ordering_key: optional(Name::CeOrderingKey)?,
        log: optional(Name::CeLog)?,
        sequence: optional(Name::CeSequence)?,
        unordered: facts::flag(headers, Name::CeUnordered.text())?,
        trace_parent: optional(Name::CeTraceParent)?,
    };
    let content_type = Name::ContentType.text();
    let content_type = facts::parse(content_type, facts::require(headers, content_type)?)?;
    received.event(content_type, payload.cloned(), headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::NewEvent,
        profile::{CodecErrorKind, Encoder, round_trip::recorded},
    };

    #[test]
    fn each_header_that_is_needed_is_missed() {
        let event = NewEvent::tombstone("Tutor", 42, "TutorErased").expect("event").into_event();
        let Encoded { payload, headers } = CloudEvents::binary().encode(&recorded(event)).expect("encoded");
        assert_eq!(payload, None);
        for absent in 0..headers.len() {
            let mut headers = headers.clone();
            let (name, _) = headers.remove(absent);
            let needless = [Name::CePartitionKey, Name::CeSource].map(Name::text);
            match decode(None, &headers) {
                Ok(_) => assert!(needless.contains(&&*name), "{name} is missing and not missed"),
                Err(error) => {
                    assert_eq!(error.kind(), CodecErrorKind::Field);
                    let attribute = name.strip_prefix("ce_").unwrap_or(&name);
                    assert!(error.to_string().contains(attribute), "{name}: {error}");
                }
            }
        }
    }

    #[test]
    fn another_version_is_an_error() {
        let event = NewEvent::tombstone("Tutor", 42, "TutorErased").expect("event").into_event();
        let mut encoded = CloudEvents::binary().encode(&recorded(event)).expect("encoded");
        encoded.headers[0].1 = Bytes::from_static(b"0.3");
        assert_eq!(decode(None, &encoded.headers).expect_err("0.3").kind(), CodecErrorKind::Field);
    }
}
