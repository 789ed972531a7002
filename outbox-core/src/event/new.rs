use bytes::Bytes;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{
    AggregateId, AggregateType, ContentType, Event, EventType, Field, Headers, InvalidEvent, InvalidReason,
    OrderingKey, TraceParent,
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
            unordered: false,
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
    /// [`InvalidEvent`] with [`Field::OrderingKey`] when the key is empty, too long or not printable, or the event is
    /// [unordered](NewEvent::unordered).
    pub fn with_ordering_key(mut self, key: impl AsRef<str>) -> Result<Self, InvalidEvent> {
        self.0.ordering_key = Some(OrderingKey::parse(key)?);
        ordered_or_not(&self.0)?;
        Ok(self)
    }

    /// Nothing orders this event: no writer waits for another one because of it, not even for one of the same
    /// aggregate, and no failure of another event holds it back. For facts that only add up, such as page views.
    ///
    /// Consumers may see such events of one aggregate in any order among themselves and among its ordered events. They
    /// carry no sequence, so consumers tell a duplicate by the event's id only, which they have to remember. The message
    /// key is the aggregate's id as usual; the lane is that of the event's id.
    ///
    /// An unordered event cannot have an ordering key: `append` refuses it with [`Field::OrderingKey`] and
    /// [`InvalidReason::Unordered`].
    #[must_use]
    pub fn unordered(mut self) -> Self {
        self.0.unordered = true;
        self
    }

    /// Adds a header.
    ///
    /// # Errors
    /// [`InvalidEvent`] with [`Field::Header`], see [`Headers::insert`].
    pub fn with_header(mut self, name: &str, value: impl Into<Bytes>) -> Result<Self, InvalidEvent> {
        self.0.headers.insert(name, value)?;
        Ok(self)
    }

    /// Adds the header `traceparent`, by which consumers join the writer's trace, unless the event has one already or
    /// its headers have no room left.
    #[must_use]
    pub fn with_trace_parent(mut self, parent: &TraceParent) -> Self {
        if self.0.headers.first(TraceParent::HEADER).is_none() {
            let _no_room = self.0.headers.insert(TraceParent::HEADER, parent.to_string());
        }
        self
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

/// # Errors
/// [`InvalidEvent`] when an unordered event has an ordering key.
pub(crate) fn ordered_or_not(event: &Event) -> Result<(), InvalidEvent> {
    if event.unordered && event.ordering_key.is_some() {
        return Err(InvalidEvent::new(Field::OrderingKey, InvalidReason::Unordered));
    }
    Ok(())
}

/// What every database we write to can keep.
fn microseconds(time: DateTime<Utc>) -> DateTime<Utc> {
    time.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(time)
}
