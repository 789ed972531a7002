//! What an event means to the index.

use outbox_core::{
    error::BoxError,
    event::{LogId, ReceivedEvent},
};
use outbox_projector::external::{Change, Documents};
use serde::Deserialize;

use super::SearchDocument;
use crate::tutors::{TUTOR_CREATED, TUTOR_DELETED, TUTOR_UPDATED};

/// Tutors as documents, by their events in one log.
pub(crate) struct TutorDocuments {
    log: LogId,
}

#[derive(Deserialize)]
struct Deleted {
    id: i64,
}

impl TutorDocuments {
    pub(super) fn of(log: LogId) -> Self {
        Self { log }
    }
}

impl Documents for TutorDocuments {
    fn change(&self, received: &ReceivedEvent) -> Result<Option<Change>, BoxError> {
        let event = &received.event;
        let event_type = event.event_type.as_str();
        if event.aggregate_type.as_str() != "Tutor"
            || ![TUTOR_CREATED, TUTOR_UPDATED, TUTOR_DELETED].contains(&event_type)
        {
            return Ok(None);
        }
        // Sequences of another log say nothing of this one's: a topic may outlive the database it was written from.
        if let Some(origin) = received.origin.filter(|origin| origin.log != self.log) {
            tracing::warn!(log = %origin.log, id = %event.id, "an event of another log is passed over");
            return Ok(None);
        }
        let payload = event.payload.as_deref().ok_or("it carries no payload")?;
        let change = if event_type == TUTOR_DELETED {
            let Deleted { id } = serde_json::from_slice(payload)?;
            Change::delete(id.to_string())
        } else {
            // Written anew, without what the index does not know.
            let document: SearchDocument = serde_json::from_slice(payload)?;
            Change::store(document.id.to_string(), serde_json::to_vec(&document)?)
        };
        if event.aggregate_id.as_str() != change.id {
            return Err(format!("it is about {}, its payload about {}", event.aggregate_id, change.id).into());
        }
        Ok(Some(change))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use outbox_core::event::{NewEvent, Origin, Sequence};
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

    fn change(event: &ReceivedEvent) -> Result<Option<Change>, BoxError> {
        TutorDocuments::of(LogId(Uuid::from_u128(1))).change(event)
    }

    #[test]
    fn known_events_are_changes_and_others_are_not() {
        let mut payload = serde_json::to_value(document(7, "Anna")).expect("JSON");
        payload["unheard_of"] = json!(1);
        let updated = change(&received(9, 7, TUTOR_UPDATED, &payload)).expect("read").expect("concerns us");
        let kept = serde_json::to_vec(&document(7, "Anna")).expect("JSON");
        assert_eq!(updated, Change::store("7", kept), "with the fields that the index knows");
        let gone = change(&received(10, 7, TUTOR_DELETED, &json!({"id": 7}))).expect("read");
        assert_eq!(gone, Some(Change::delete("7")));
        assert_eq!(change(&received(11, 7, "TutorSuspended", &json!({}))).expect("read"), None);
        let mut of_another_log = received(12, 7, TUTOR_DELETED, &json!({"id": 7}));
        of_another_log.origin = of_another_log.origin.map(|origin| Origin { log: LogId(Uuid::nil()), ..origin });
        assert_eq!(change(&of_another_log).expect("read"), None);
    }

    #[test]
    fn what_would_blank_or_misplace_a_document_is_refused() {
        let mut partial = serde_json::to_value(document(7, "Anna")).expect("JSON");
        partial.as_object_mut().expect("object").remove("bio");
        for (bad, why) in [
            (received(1, 7, TUTOR_UPDATED, &partial), "bio"),
            (received(1, 7, TUTOR_DELETED, &json!({"id": null})), "null"),
            (received(1, 8, TUTOR_DELETED, &json!({"id": 7})), "it is about 8, its payload about 7"),
        ] {
            let error = change(&bad).expect_err("refused").to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
