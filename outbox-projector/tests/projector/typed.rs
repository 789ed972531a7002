//! Events decoded into an enum.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod handler;

use std::error::Error;

use outbox_core::event::{ContentType, Event, NewEvent};
use outbox_projector::typed::{Broken, decode};
use serde::Deserialize;
use serde_json::json;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all_fields = "camelCase")]
enum TutorEvent<'e> {
    TutorCreated(Tutor),
    TutorRenamed {
        id: i64,
        full_name: &'e str,
    },
    TutorMoved(f64, f64),
    TutorReplaced(Option<Tutor>),
    TutorErased,
    #[serde(rename = "tutor.rated", alias = "TutorRated")]
    Rated {
        stars: u8,
    },
}

#[derive(Debug, PartialEq, Deserialize)]
struct Tutor {
    name: String,
    subject: Subject,
}

#[derive(Debug, PartialEq, Deserialize)]
enum Subject {
    Music,
}

#[derive(Debug, PartialEq, Deserialize)]
enum WithOther {
    TutorErased,
    #[serde(other)]
    Something,
}

fn event(event_type: &str, payload: serde_json::Value) -> Event {
    NewEvent::json("Tutor", 1, event_type, &payload).expect("event").into_event()
}

fn tombstone(event_type: &str) -> Event {
    NewEvent::tombstone("Tutor", 1, event_type).expect("event").into_event()
}

fn reason(broken: &Broken) -> String {
    broken.source().expect("a source").to_string()
}

#[test]
fn every_shape_of_variant_is_decoded() {
    let ada = || Tutor { name: "Ada".into(), subject: Subject::Music };
    let json = json!({ "name": "Ada", "subject": "Music" });
    let renamed = event("TutorRenamed", json!({ "id": 7, "fullName": "Ada L", "more": [1] }));
    for (event, expected) in [
        (event("TutorCreated", json.clone()), TutorEvent::TutorCreated(ada())),
        (renamed, TutorEvent::TutorRenamed { id: 7, full_name: "Ada L" }),
        (event("TutorMoved", json!([1.5, 2])), TutorEvent::TutorMoved(1.5, 2.0)),
        (event("TutorReplaced", json), TutorEvent::TutorReplaced(Some(ada()))),
        (event("TutorErased", json!({ "by": "him" })), TutorEvent::TutorErased),
        (event("tutor.rated", json!({ "stars": 5 })), TutorEvent::Rated { stars: 5 }),
        (event("TutorRated", json!({ "stars": 4 })), TutorEvent::Rated { stars: 4 }),
    ] {
        assert_eq!(decode(&event).expect("decoded"), Some(expected), "{}", event.event_type);
    }
}

#[test]
fn a_tombstone_fits_where_nothing_is_expected() {
    assert_eq!(decode(&tombstone("TutorErased")).expect("decoded"), Some(TutorEvent::TutorErased));
    assert_eq!(decode(&tombstone("TutorReplaced")).expect("decoded"), Some(TutorEvent::TutorReplaced(None)));
    for event_type in ["TutorCreated", "TutorRenamed", "TutorMoved", "tutor.rated"] {
        let event = tombstone(event_type);
        let broken = decode::<TutorEvent>(&event).expect_err(event_type);
        assert_eq!(reason(&broken), "it has no payload");
    }
}

#[test]
fn an_unknown_type_is_none_whatever_its_payload() {
    let mut binary = tombstone("Unheard");
    binary.content_type = ContentType::parse("application/protobuf").expect("content type");
    binary.payload = Some(bytes::Bytes::from_static(b"\xff\x00"));
    // The name in code is not a name on the wire.
    for event in [event("Unheard", json!(1)), event("Rated", json!({ "stars": 5 })), tombstone("Unheard"), binary] {
        assert_eq!(decode::<TutorEvent>(&event).expect("no error"), None);
        assert_eq!(decode::<WithOther>(&event).expect("no error"), Some(WithOther::Something));
    }
    assert_eq!(decode(&tombstone("TutorErased")).expect("decoded"), Some(WithOther::TutorErased));
}

#[test]
fn a_payload_that_does_not_fit_is_broken_with_the_reason() {
    let mut truncated = event("TutorMoved", json!([1, 2]));
    truncated.payload = Some(bytes::Bytes::from_static(b"[1, 2"));
    let mut trailing = event("TutorMoved", json!([1, 2]));
    trailing.payload = Some(bytes::Bytes::from_static(b"[1, 2] 3"));
    let mut binary = event("TutorMoved", json!([1, 2]));
    binary.content_type = ContentType::parse("application/protobuf").expect("content type");
    for (event, says) in [
        (event("TutorCreated", json!({ "name": "Ada" })), "missing field `subject`"),
        // An unknown variant inside of the payload is not an unknown event.
        (event("TutorCreated", json!({ "name": "Ada", "subject": "Maths" })), "unknown variant `Maths`"),
        (event("TutorRenamed", json!({ "id": "7", "fullName": "Ada" })), "invalid type: string \"7\""),
        (event("TutorMoved", json!([1])), "invalid length 1"),
        (event("TutorCreated", json!(null)), "invalid type: null"),
        (truncated, "EOF"),
        (trailing, "trailing characters"),
        (binary, "application/protobuf"),
    ] {
        let broken = decode::<TutorEvent>(&event).expect_err(says);
        assert!(reason(&broken).contains(says), "{says}: {}", reason(&broken));
        assert_eq!(broken.event_type(), &event.event_type);
        assert!(broken.to_string().contains(event.event_type.as_str()), "{broken}");
    }
}

#[test]
fn what_is_no_externally_tagged_enum_is_told_so() {
    #[derive(Debug, Deserialize)]
    #[serde(tag = "type")]
    enum Tagged {
        TutorErased,
    }
    let event = event("TutorErased", json!({ "type": "TutorErased" }));
    for told in [
        reason(&decode::<Tagged>(&event).expect_err("tagged")),
        reason(&decode::<Tutor>(&event).expect_err("a struct")),
    ] {
        assert!(told.contains("externally tagged"), "{told}");
    }
}
