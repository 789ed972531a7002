//! What an event means to the index.

use outbox_core::{
    event::ReceivedEvent,
    projection::{ProjectionError, ProjectionErrorKind},
};
use serde::Deserialize;

use super::SearchDocument;
use crate::tutors::{TUTOR_CREATED, TUTOR_DELETED, TUTOR_UPDATED};

/// A document's new state. Of two changes of one id the higher version is the newer.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) id: i64,
    pub(super) version: u64,
    /// `None`: deleted. The index remembers that, with the version, so that a late duplicate revives nothing.
    pub(super) document: Option<SearchDocument>,
}

#[derive(Deserialize)]
struct Deleted {
    id: i64,
}

impl Change {
    /// Reads an event; `None` for types that do not concern the index.
    ///
    /// # Errors
    /// [`ProjectionErrorKind::Rejected`]: the payload is not what its type promises, or the event does not say where
    /// it stands in its log, so that nobody could tell old from new.
    pub(super) fn read(received: &ReceivedEvent) -> Result<Option<Self>, ProjectionError> {
        let event = &received.event;
        let event_type = event.event_type.as_str();
        if event.aggregate_type.as_str() != "Tutor"
            || ![TUTOR_CREATED, TUTOR_UPDATED, TUTOR_DELETED].contains(&event_type)
        {
            return Ok(None);
        }
        let rejected = |why: String| {
            ProjectionError::new(ProjectionErrorKind::Rejected, format!("{event_type} {}: {why}", event.id))
        };
        let origin = received.origin.ok_or_else(|| rejected("it carries no log and sequence".to_owned()))?;
        let payload = event.payload.as_deref().ok_or_else(|| rejected("it carries no payload".to_owned()))?;
        let unreadable = |e: serde_json::Error| rejected(format!("its payload is unreadable ({e})")).with_source(e);
        let (id, document) = if event_type == TUTOR_DELETED {
            (serde_json::from_slice::<Deleted>(payload).map_err(unreadable)?.id, None)
        } else {
            let document: SearchDocument = serde_json::from_slice(payload).map_err(unreadable)?;
            (document.id, Some(document))
        };
        if event.aggregate_id.as_str() != id.to_string() {
            return Err(rejected(format!("it is about {}, its payload about {id}", event.aggregate_id)));
        }
        Ok(Some(Self { id, version: origin.sequence.get(), document }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use outbox_core::event::{LogId, NewEvent, Origin, Sequence};
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    pub(in crate::search) fn received(position: u64, id: i64, event_type: &str, payload: &Value) -> ReceivedEvent {
        let event = NewEvent::json("Tutor", id, event_type, payload).expect("event").into_event();
        let sequence = Sequence::new(0, position).expect("sequence");
        ReceivedEvent { origin: Some(Origin { log: LogId(Uuid::from_u128(1)), sequence }), event }
    }

    pub(in crate::search) fn document(id: i64, full_name: &str) -> SearchDocument {
        SearchDocument {
            id,
            slug: format!("slug-{id}"),
            full_name: full_name.to_owned(),
            avatar_url: String::new(),
            headline: "Patient mathematics teacher".to_owned(),
            bio: "I have been teaching for years.".to_owned(),
            subjects: vec!["Mathematics".to_owned()],
            hourly_rate: 1500.5,
            rating: 4.5,
            reviews_count: 3,
            is_verified: true,
            location: "Kazan".to_owned(),
            formats: vec!["online".to_owned()],
            created_at: "2026-01-02T03:04:05.000006Z".to_owned(),
            updated_at: "2026-01-02T03:04:05.000006Z".to_owned(),
        }
    }

    fn kind(event: &ReceivedEvent) -> ProjectionErrorKind {
        Change::read(event).expect_err("rejected").kind()
    }

    #[test]
    fn known_events_are_changes_and_others_are_not() {
        let payload = serde_json::to_value(document(7, "Anna")).expect("JSON");
        let change = Change::read(&received(9, 7, TUTOR_UPDATED, &payload)).expect("read").expect("concerns us");
        assert_eq!((change.id, change.version), (7, 9));
        let gone =
            Change::read(&received(10, 7, TUTOR_DELETED, &json!({"id": 7}))).expect("read").expect("concerns us");
        assert!(gone.document.is_none());
        assert!(Change::read(&received(11, 7, "TutorSuspended", &json!({}))).expect("read").is_none());
    }

    #[test]
    fn what_would_blank_or_misplace_a_document_is_rejected() {
        let mut partial = serde_json::to_value(document(7, "Anna")).expect("JSON");
        partial.as_object_mut().expect("object").remove("bio");
        assert_eq!(kind(&received(1, 7, TUTOR_UPDATED, &partial)), ProjectionErrorKind::Rejected);
        assert_eq!(kind(&received(1, 7, TUTOR_DELETED, &json!({"id": null}))), ProjectionErrorKind::Rejected);
        assert_eq!(kind(&received(1, 8, TUTOR_DELETED, &json!({"id": 7}))), ProjectionErrorKind::Rejected);
        let unversioned = ReceivedEvent { origin: None, ..received(1, 7, TUTOR_DELETED, &json!({"id": 7})) };
        assert_eq!(kind(&unversioned), ProjectionErrorKind::Rejected);
    }
}
