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
    /// Nothing orders the event: see [`NewEvent::unordered`](super::NewEvent::unordered). Has no ordering key then.
    pub unordered: bool,
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

    /// What decides the lane, the lock that serialises writers and what a failure holds back: the ordering key, or else
    /// `type/id` of the aggregate; of an unordered event its own id, hyphenated and in lower case. Two keys that happen
    /// to share this text only share a lane and a lock.
    #[must_use]
    pub fn lane_key(&self) -> Cow<'_, str> {
        if self.unordered {
            return Cow::Owned(self.id.to_string());
        }
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
    /// Which log, and where in it. `None` when the message does not say, as from a writer that is not this library, and
    /// for an event that is [unordered](Event::unordered); such events can be told apart only by [`Event::id`].
    pub origin: Option<Origin>,
    /// The facts.
    pub event: Event,
}

impl From<RecordedEvent> for ReceivedEvent {
    /// What a consumer straight from the log receives: the same as one behind a broker.
    fn from(recorded: RecordedEvent) -> Self {
        let origin = (!recorded.event.unordered).then_some(recorded.origin);
        Self { origin, event: recorded.event }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::event::{LaneCount, LogId, NewEvent, Sequence};

    #[test]
    fn an_unordered_event_has_its_own_lane_key_and_no_origin() {
        let id = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0ABC);
        let event =
            NewEvent::tombstone("Tutor", 42, "TutorViewed").expect("event").with_id(id).unordered().into_event();
        assert_eq!(event.lane_key(), "01900000-0000-7000-8000-000000000abc");
        assert_eq!(event.message_key(), "42", "a broker still keeps it beside its aggregate's other events");
        let origin = Origin { log: LogId(Uuid::nil()), sequence: Sequence::new(0, 1).expect("sequence") };
        let recorded = RecordedEvent { origin, lane: LaneCount::default().lane_of(&event.lane_key()), event };
        assert_eq!(ReceivedEvent::from(recorded).origin, None);
    }
}
