//! What the relay keeps of a page: its events, shared with the lanes' tasks.

use std::{borrow::Cow, sync::Arc};

use super::machine::{Arrival, Body, key_hash};
use crate::event::{Event, Lane, RecordedEvent};

#[derive(Debug, Clone)]
pub(super) struct Events(Arc<Vec<RecordedEvent>>);

impl From<Vec<RecordedEvent>> for Events {
    fn from(events: Vec<RecordedEvent>) -> Self {
        Self(Arc::new(events))
    }
}

impl Events {
    pub(super) fn get(&self, index: u32) -> Option<&RecordedEvent> {
        self.0.get(index as usize)
    }

    /// The events as the machine sees them.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = Arrival> {
        self.0.iter().map(|recorded| Arrival {
            lane: recorded.lane,
            hash: hash_of(&recorded.event),
            position: recorded.origin.sequence.position(),
            bytes: bytes_of(recorded),
        })
    }
}

impl Body for Events {
    fn lane_key(&self, index: u32) -> Cow<'_, str> {
        self.get(index).map_or(Cow::Borrowed(""), |recorded| recorded.event.lane_key())
    }

    fn place(&self, index: u32) -> Option<(Lane, u64)> {
        self.get(index).map(|recorded| (recorded.lane, recorded.origin.sequence.position()))
    }
}

/// What an event takes in memory, about.
pub(super) fn bytes_of(recorded: &RecordedEvent) -> usize {
    const FRAME: usize = 256;
    let event = &recorded.event;
    FRAME + event.payload.as_ref().map_or(0, bytes::Bytes::len) + event.headers.bytes()
}

/// The hash of [`Event::lane_key`], without making the text.
fn hash_of(event: &Event) -> u64 {
    if event.unordered {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        return key_hash([&*event.id.hyphenated().encode_lower(&mut text)]);
    }
    match &event.ordering_key {
        Some(key) => key_hash([key.as_str()]),
        None => key_hash([event.aggregate_type.as_str(), "/", event.aggregate_id.as_str()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NewEvent;

    #[test]
    fn the_hash_is_that_of_the_lane_key() {
        let event = NewEvent::tombstone("Tutor", 42, "TutorErased").expect("event");
        let keyed = event.clone().with_ordering_key("a key").expect("key");
        for event in [event.clone(), keyed, event.unordered()] {
            assert_eq!(hash_of(event.event()), key_hash([&*event.event().lane_key()]));
        }
    }
}
