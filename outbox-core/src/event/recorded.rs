use std::borrow::Cow;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{AggregateId, AggregateType, ContentType, EventType, Headers, Lane, OrderingKey, Origin};

/// The facts of an event, the same before, in and after the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Unique; a UUIDv7 unless the writer chose otherwise.
    pub id: Uuid,
    /// What kind of thing it is about.
    pub aggregate_type: AggregateType,
    /// Which one it is about.
    pub aggregate_id: AggregateId,
    /// Orders the event among others instead of its aggregate, when set.
    pub ordering_key: Option<OrderingKey>,
    /// What happened.
    pub event_type: EventType,
    /// How to read the payload.
    pub content_type: ContentType,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// Further facts for consumers.
    pub headers: Headers,
    /// When the writer made it: microseconds, UTC. Nothing orders by it.
    pub created_at: DateTime<Utc>,
}

impl Event {
    /// The key of the message: the ordering key, or else the aggregate's id.
    #[must_use]
    pub fn message_key(&self) -> &str {
        self.ordering_key.as_ref().map_or(self.aggregate_id.as_str(), OrderingKey::as_str)
    }

    /// What decides the lane and the lock that serialises writers: the ordering key, or else `type/id` of the
    /// aggregate. Two keys that happen to share this text only share a lane and a lock.
    #[must_use]
    pub fn lane_key(&self) -> Cow<'_, str> {
        match &self.ordering_key {
            Some(key) => Cow::Borrowed(key.as_str()),
            None => Cow::Owned(format!("{}/{}", self.aggregate_type, self.aggregate_id)),
        }
    }
}

/// An event as it stands in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Which log, and where in it.
    pub origin: Origin,
    /// The lane its key falls into.
    pub lane: Lane,
    /// The facts.
    pub event: Event,
}

/// An event as a consumer receives it, from a broker or straight from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedEvent {
    /// Which log, and where in it. `None` when the message does not say, as from a writer that is not this library;
    /// such events can be told apart only by [`Event::id`].
    pub origin: Option<Origin>,
    /// The facts.
    pub event: Event,
}

impl From<RecordedEvent> for ReceivedEvent {
    fn from(recorded: RecordedEvent) -> Self {
        Self { origin: Some(recorded.origin), event: recorded.event }
    }
}
