use outbox_core::event::{AggregateType, Event, LogId, ReceivedEvent};
use uuid::Uuid;

/// The events whose sequences are compared with each other: those of one log, aggregate type and key.
///
/// The key is the one that serialises writers ([`Event::lane_key`]), not the message key: an aggregate `7` and an
/// ordering key `"7"` share the latter, their writers do not wait for each other, and the lower sequence may come last.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Series {
    /// The log. Nil for events that carry no sequence: nothing compares those.
    pub log: LogId,
    /// The type of the aggregates.
    pub aggregate_type: AggregateType,
    /// The key, [`Event::lane_key`].
    pub ordering_key: String,
}

impl Series {
    /// The series of an event of this log.
    #[must_use]
    pub fn of(log: LogId, event: &Event) -> Self {
        let ordering_key = event.lane_key().into_owned();
        Self { log, aggregate_type: event.aggregate_type.clone(), ordering_key }
    }

    /// The series of an event as it was received.
    #[must_use]
    pub fn of_received(received: &ReceivedEvent) -> Self {
        Self::of(received.origin.map_or(LogId(Uuid::nil()), |origin| origin.log), &received.event)
    }
}
