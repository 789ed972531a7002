//! What the world learns about a tutor: the full search document on every change, the id on deletion.

use chrono::SecondsFormat;
use outbox_core::event::{InvalidEvent, NewEvent};
use serde_json::json;

use super::model::Tutor;
use crate::search::SearchDocument;

pub(crate) const TUTOR_CREATED: &str = "TutorCreated";
pub(crate) const TUTOR_UPDATED: &str = "TutorUpdated";
pub(crate) const TUTOR_DELETED: &str = "TutorDeleted";

const AGGREGATE: &str = "Tutor";

pub(super) fn created(tutor: &Tutor) -> Result<NewEvent, InvalidEvent> {
    NewEvent::json(AGGREGATE, tutor.id, TUTOR_CREATED, &document(tutor))
}

pub(super) fn updated(tutor: &Tutor) -> Result<NewEvent, InvalidEvent> {
    NewEvent::json(AGGREGATE, tutor.id, TUTOR_UPDATED, &document(tutor))
}

pub(super) fn deleted(id: i64) -> Result<NewEvent, InvalidEvent> {
    NewEvent::json(AGGREGATE, id, TUTOR_DELETED, &json!({ "id": id }))
}

fn document(tutor: &Tutor) -> SearchDocument {
    let profile = tutor.profile.clone();
    SearchDocument {
        id: tutor.id,
        slug: tutor.slug.clone(),
        formats: profile.format_names().into_iter().map(str::to_owned).collect(),
        full_name: profile.full_name,
        avatar_url: profile.avatar_url,
        headline: profile.headline,
        bio: profile.bio,
        subjects: profile.subjects,
        hourly_rate: profile.hourly_rate.to_number(),
        rating: profile.rating.to_number(),
        reviews_count: profile.reviews_count,
        is_verified: profile.is_verified,
        location: profile.location,
        created_at: tutor.created_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        updated_at: tutor.updated_at.to_rfc3339_opts(SecondsFormat::Micros, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        money::{Money, Rating},
        tutors::{Format, Profile},
    };

    #[test]
    fn the_document_has_the_fifteen_fields_of_the_original() {
        let tutor = Tutor {
            id: 1 << 40,
            slug: "anna".into(),
            profile: Profile {
                full_name: "Anna".into(),
                hourly_rate: Money::from_hundredths(150_050).expect("money"),
                rating: Rating::from_hundredths(485).expect("rating"),
                subjects: vec!["Maths".into()],
                formats: vec![Format::Online],
                ..Profile::default()
            },
            created_at: "2026-01-02T03:04:05.000006Z".parse().expect("time"),
            updated_at: "2026-01-02T03:04:06Z".parse().expect("time"),
        };
        let event = created(&tutor).expect("event");
        let payload: serde_json::Value =
            serde_json::from_slice(event.event().payload.as_deref().expect("payload")).expect("JSON");
        let expected = json!({
            "id": 1_099_511_627_776_i64, "slug": "anna", "full_name": "Anna", "avatar_url": "", "headline": "", "bio": "",
            "subjects": ["Maths"], "hourly_rate": 1500.5, "rating": 4.85, "reviews_count": 0, "is_verified": false,
            "location": "", "formats": ["online"], "created_at": "2026-01-02T03:04:05.000006Z",
            "updated_at": "2026-01-02T03:04:06.000000Z",
        });
        assert_eq!(payload, expected);
        assert_eq!(event.event().message_key(), "1099511627776");
    }

    #[test]
    fn a_deletion_carries_the_id() {
        let event = deleted(7).expect("event");
        assert_eq!(event.event().payload.as_deref(), Some(&br#"{"id":7}"#[..]));
        assert_eq!(event.event().event_type.as_str(), TUTOR_DELETED);
    }
}
