//! One event of every kind, always the same.

use chrono::{DateTime, Utc};
use outbox_core::event::{
    ContentType, Event, LaneCount, LogId, NewEvent, Origin, RecordedEvent, Sequence, TraceParent,
};
use uuid::Uuid;

/// Each with what it shows.
pub(crate) fn all() -> Vec<(&'static str, NewEvent)> {
    let parent = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").expect("parent");
    let key = |event: NewEvent, key| event.with_ordering_key(key).expect("key");
    let header = |event: NewEvent, name, value: &'static [u8]| event.with_header(name, value).expect("header");
    let events = vec![
        ("plain", json("42", "TutorCreated", r#"{"id":42,"full_name":"Anna Ivanova","hourly_rate":1500.0}"#)),
        ("keyed", key(json("43", "TutorMoved", r#"{"room":1}"#), "room/1")),
        ("unordered", json("42", "TutorViewed", "{}").unordered()),
        ("tombstone", NewEvent::tombstone("Tutor", 42, "TutorErased").expect("event")),
        ("null", json("42", "TutorReset", "null")),
        (
            "unicode",
            key(json("Анна \"A\"\\", "Обновлён", r#"{"имя":"Анна \u0410 🦉","text":"a\n\u2028"}"#), "комната/1"),
        ),
        ("spaced", json("42", "TutorUpdated", "{ \"id\" : 42,\n\t\"price\": 1e2 }")),
        ("binary", typed("application/octet-stream", b"\x00\xff\x80 bytes")),
        ("text", typed("text/plain; charset=utf-8", "просто текст".as_bytes())),
        ("empty", typed("application/octet-stream", b"")),
        ("vendor", typed("application/vnd.tutor.v1+json", br#"{"id":42}"#)),
        ("traced", json("42", "TutorUpdated", r#"{"id":42}"#).with_trace_parent(&parent)),
        ("headers", header(header(json("42", "TutorUpdated", "1"), "tenant", b"acme"), "tenant", b"\x00\xff")),
    ];
    let at = |n: usize| {
        "2026-01-02T03:04:05.000006Z".parse::<DateTime<Utc>>().expect("time") + chrono::TimeDelta::seconds(n as i64)
    };
    let id = |n: usize| Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001 + n as u128);
    let fixed = |(n, (name, event)): (usize, (_, NewEvent))| (name, event.with_id(id(n)).with_created_at(at(n)));
    events.into_iter().enumerate().map(fixed).collect()
}

fn json(id: &str, event_type: &str, payload: &'static str) -> NewEvent {
    NewEvent::bytes("Tutor", id, event_type, ContentType::json(), payload).expect("event")
}

fn typed(content_type: &str, payload: &'static [u8]) -> NewEvent {
    let content_type = ContentType::parse(content_type).expect("content type");
    NewEvent::bytes("Tutor", 42, "TutorPictured", content_type, payload).expect("event")
}

/// As it stands in a log that was re-anchored once.
pub(crate) fn recorded(event: Event, position: u64) -> RecordedEvent {
    let log = LogId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_00ff));
    let origin = Origin { log, sequence: Sequence::new(1, position).expect("sequence") };
    RecordedEvent { origin, lane: LaneCount::default().lane_of(&event.lane_key()), event }
}
