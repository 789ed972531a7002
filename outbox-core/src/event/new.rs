use bytes::Bytes;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{
    AggregateId, AggregateType, ContentType, Event, EventType, Field, Headers, InvalidEvent, InvalidReason, OrderingKey,
};

/// An event that is ready to be appended.
///
/// ```
/// # use outbox_core::event::NewEvent;
/// # fn main() -> Result<(), outbox_core::event::InvalidEvent> {
/// let created = NewEvent::json("Tutor", 42, "TutorCreated", &serde_json::json!({"id": 42}))?;
/// let erased = NewEvent::tombstone("Tutor", 42, "TutorErased")?.with_header("reason", "gdpr")?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent(Event);

impl NewEvent {
    /// An event with a JSON payload.
    ///
    /// # Errors
    /// [`InvalidEvent`] naming the field that is empty, too long or not printable, or the payload when it does not
    /// serialise.
    pub fn json(
        aggregate_type: impl AsRef<str>,
        aggregate_id: impl ToString,
        event_type: impl AsRef<str>,
        payload: &(impl Serialize + ?Sized),
    ) -> Result<Self, InvalidEvent> {
        let mut event = Self::tombstone(aggregate_type, aggregate_id, event_type)?;
        let bytes = serde_json::to_vec(payload)
            .map_err(|e| InvalidEvent::new(Field::Payload, InvalidReason::NotJson { detail: e.to_string() }))?;
        event.0.payload = Some(bytes.into());
        Ok(event)
    }

    /// An event whose payload is any bytes.
    ///
    /// # Errors
    /// [`InvalidEvent`] naming the field that is empty, too long or not printable, or the payload when the content
    /// type is JSON and the bytes are not.
    pub fn bytes(
        aggregate_type: impl AsRef<str>,
        aggregate_id: impl ToString,
        event_type: impl AsRef<str>,
        content_type: ContentType,
        payload: impl Into<Bytes>,
    ) -> Result<Self, InvalidEvent> {
        let mut event = Self::tombstone(aggregate_type, aggregate_id, event_type)?;
        let payload = payload.into();
        if content_type.is_json() {
            serde_json::from_slice::<&serde_json::value::RawValue>(&payload)
                .map_err(|e| InvalidEvent::new(Field::Payload, InvalidReason::NotJson { detail: e.to_string() }))?;
        }
        event.0.content_type = content_type;
        event.0.payload = Some(payload);
        Ok(event)
    }

    /// An event without a payload. A compacted topic forgets the key when it carries one as raw payload.
    ///
    /// # Errors
    /// [`InvalidEvent`] naming the field that is empty, too long or not printable.
    pub fn tombstone(
        aggregate_type: impl AsRef<str>,
        aggregate_id: impl ToString,
        event_type: impl AsRef<str>,
    ) -> Result<Self, InvalidEvent> {
        Ok(Self(Event {
            id: Uuid::now_v7(),
            aggregate_type: AggregateType::parse(aggregate_type)?,
            aggregate_id: AggregateId::parse(aggregate_id.to_string())?,
            ordering_key: None,
            event_type: EventType::parse(event_type)?,
            content_type: ContentType::json(),
            payload: None,
            headers: Headers::default(),
            created_at: microseconds(Utc::now()),
        }))
    }

    /// Orders this event by `key` instead of by its aggregate: it decides the lane, the Kafka key and what a failure
    /// holds back. All events that must keep an order among themselves need the same key.
    ///
    /// # Errors
    /// [`InvalidEvent`] with [`Field::OrderingKey`] when the key is empty, too long or not printable.
    pub fn with_ordering_key(mut self, key: impl AsRef<str>) -> Result<Self, InvalidEvent> {
        self.0.ordering_key = Some(OrderingKey::parse(key)?);
        Ok(self)
    }

    /// Adds a header.
    ///
    /// # Errors
    /// [`InvalidEvent`] with [`Field::Header`], see [`Headers::insert`].
    pub fn with_header(mut self, name: &str, value: impl Into<Bytes>) -> Result<Self, InvalidEvent> {
        self.0.headers.insert(name, value)?;
        Ok(self)
    }

    /// Uses this id instead of a fresh UUIDv7. It must be unique: consumers tell duplicates by it.
    #[must_use]
    pub fn with_id(mut self, id: Uuid) -> Self {
        self.0.id = id;
        self
    }

    /// Uses this time, cut to microseconds, instead of now.
    #[must_use]
    pub fn with_created_at(mut self, created_at: DateTime<Utc>) -> Self {
        self.0.created_at = microseconds(created_at);
        self
    }

    /// The facts.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.0
    }

    /// The facts, by value.
    #[must_use]
    pub fn into_event(self) -> Event {
        self.0
    }
}

/// What every database we write to can keep.
fn microseconds(time: DateTime<Utc>) -> DateTime<Utc> {
    time.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(time)
}
