//! What every encoder promises, on events of any kind.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use chrono::DateTime;
use proptest::{collection::vec, option, prelude::*, sample::select};
use uuid::Uuid;

use super::{CloudEvents, Decoder, Encoded, Encoder, LeanEnvelope, RawPayload, SeedEnvelope};
use crate::event::{
    AggregateId, AggregateType, ContentType, Event, EventType, Headers, LaneCount, LogId, OrderingKey, Origin,
    ReceivedEvent, RecordedEvent, Sequence, TraceParent,
};

/// The event as it stands in a log.
pub(super) fn recorded(event: Event) -> RecordedEvent {
    let origin = Origin { log: LogId(Uuid::from_u128(7)), sequence: Sequence::new(1, 99).expect("sequence") };
    RecordedEvent { origin, lane: LaneCount::default().lane_of(&event.lane_key()), event }
}

trait Codec: Encoder + Decoder {}
impl<C: Encoder + Decoder> Codec for C {}

fn codecs() -> Vec<Arc<dyn Codec>> {
    let source = "https://example.org/tutors";
    vec![
        Arc::new(SeedEnvelope),
        Arc::new(LeanEnvelope),
        Arc::new(RawPayload),
        Arc::new(CloudEvents::structured()),
        Arc::new(CloudEvents::binary()),
        Arc::new(CloudEvents::structured().with_source(source).expect("source")),
        Arc::new(CloudEvents::binary().with_source(source).expect("source")),
    ]
}

fn events() -> impl Strategy<Value = RecordedEvent> {
    let name = || prop_oneof!["[a-zA-Z]{1,20}", "[\"\\\\]{1,255}", "\\PC{1,60}"];
    let payload = prop_oneof![
        (select(vec!["application/json", "application/json; v=1", "a/b+json"]), option::of(json()))
            .prop_map(|(content_type, json)| (content_type, json.map(Bytes::from))),
        (select(vec!["text/plain", "application/octet-stream"]), option::of(vec(any::<u8>(), 0..300)))
            .prop_map(|(content_type, bytes)| (content_type, bytes.map(Bytes::from))),
    ];
    let parent = TraceParent::new([1; 16], [2; 8], true).expect("parent").to_string();
    let header = prop_oneof![
        ("\\PC{1,20}", vec(any::<u8>(), 0..50)),
        (Just(TraceParent::HEADER.to_owned()), select(vec![parent.into_bytes(), b"none".to_vec(), vec![0xff]])),
    ];
    let order = prop_oneof![Just((None, false)), Just((None, true)), name().prop_map(|key| (Some(key), false))];
    let identity =
        (any::<u128>(), any::<u128>(), any::<u16>(), 0..=Sequence::MAX_POSITION, 0..253_402_300_800_000_000_i64);
    (identity, (name(), name(), name()), order, payload, vec(header, 0..4)).prop_map(
        |((id, log, generation, position, micros), names, (key, unordered), (content_type, payload), headers)| {
            let mut own = Headers::default();
            for (name, value) in headers {
                let _reserved = own.insert(&name, value);
            }
            let event = Event {
                id: Uuid::from_u128(id),
                aggregate_type: AggregateType::parse(names.0).expect("name"),
                aggregate_id: AggregateId::parse(names.1).expect("name"),
                ordering_key: key.map(|key| OrderingKey::parse(key).expect("name")),
                unordered,
                event_type: EventType::parse(names.2).expect("name"),
                content_type: ContentType::parse(content_type).expect("type"),
                payload,
                headers: own,
                created_at: DateTime::from_timestamp_micros(micros).expect("time"),
            };
            let sequence = Sequence::new(generation, position).expect("sequence");
            RecordedEvent { origin: Origin { log: LogId(Uuid::from_u128(log)), sequence }, ..recorded(event) }
        },
    )
}

/// Without whitespace around it, which is not part of the value.
fn json() -> impl Strategy<Value = String> {
    let text = any::<String>().prop_map(|text| serde_json::json!(text).to_string());
    let object = (any::<String>(), any::<i64>()).prop_map(|(key, n)| serde_json::json!({ key: n }).to_string());
    prop_oneof![Just("null".to_owned()), Just("{ \"a\" :\n1 }".to_owned()), Just("1e400".to_owned()), text, object]
}

proptest! {
    #[test]
    fn what_is_accepted_is_encoded_within_bounds_and_reads_back_the_same(recorded in events()) {
        let mut accepted = 0;
        for codec in codecs() {
            let Ok(bound) = codec.check(&recorded.event) else { continue };
            accepted += 1;
            let Encoded { payload, headers } = codec.encode(&recorded).expect("accepted");
            let bytes = payload.as_ref().map_or(0, Bytes::len) + headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>();
            prop_assert!(bytes <= bound, "{bytes} bytes, and {bound} at most were announced");
            prop_assert_eq!(&codec.encode(&recorded).expect("accepted"), &Encoded { payload: payload.clone(), headers: headers.clone() });
            let received = codec.decode(None, payload.as_ref(), &headers).expect("decoded");
            prop_assert_eq!(&received, &ReceivedEvent::from(recorded.clone()));
        }
        prop_assert!(accepted >= 1, "the raw payload carries everything");
    }

    #[test]
    fn any_bytes_are_an_event_or_an_error(
        recorded in events(),
        body in option::of(vec(any::<u8>(), 0..200)),
        broken in any::<prop::sample::Index>(),
        value in vec(any::<u8>(), 0..50),
    ) {
        let body = body.map(Bytes::from);
        for codec in codecs() {
            let _error = codec.decode(None, body.as_ref(), &[]);
            let Ok(mut encoded) = codec.encode(&recorded) else { continue };
            let _either = codec.decode(None, body.as_ref(), &encoded.headers);
            let broken = broken.index(encoded.headers.len());
            encoded.headers[broken].1 = value.clone().into();
            let _either = codec.decode(None, encoded.payload.as_ref(), &encoded.headers);
        }
    }
}

#[test]
fn no_header_of_ours_is_written_twice() {
    for unordered in [false, true] {
        let mut event = crate::event::NewEvent::tombstone("Tutor", 1, "TutorErased").expect("event");
        event = if unordered { event.unordered() } else { event.with_ordering_key("key").expect("key") };
        for codec in codecs() {
            let encoded = codec.encode(&recorded(event.event().clone())).expect("encoded");
            let mut seen = HashSet::new();
            assert!(encoded.headers.iter().all(|(name, _)| seen.insert(name.clone())), "{:?}", encoded.headers);
        }
    }
}
