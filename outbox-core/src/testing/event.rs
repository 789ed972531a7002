//! The events that suites write, and what they read out of them.

use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use crate::event::{Event, LogId, NewEvent, Origin, ReceivedEvent, Sequence};

/// The aggregate type of the suites' events; with the default router their topic is `suite-events`.
pub const SUITE_TYPE: &str = "Suite";

/// An event of the aggregate `key` that carries a number: `{"n": n}`.
pub(crate) fn numbered(key: &str, n: u64) -> NewEvent {
    NewEvent::json(SUITE_TYPE, key, "Counted", &serde_json::json!({ "n": n })).expect("a well-formed event")
}

/// The number that an event of a suite carries: the member `n` of its payload. `None` when it has none.
#[must_use]
pub fn number_of(event: &Event) -> Option<u64> {
    let payload: serde_json::Value = serde_json::from_slice(event.payload.as_deref()?).ok()?;
    payload.get("n")?.as_u64()
}

/// Gives events a place in an imaginary log, for adapters that get their events from elsewhere than a log.
///
/// Sequences rise from 1 in the order of calls.
#[derive(Debug)]
pub struct Sequencer {
    log: LogId,
    last: AtomicU64,
}

impl Default for Sequencer {
    fn default() -> Self {
        Self { log: LogId(Uuid::now_v7()), last: AtomicU64::new(0) }
    }
}

impl Sequencer {
    /// The next place.
    #[must_use]
    pub fn next(&self) -> Origin {
        let position = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        Origin { log: self.log, sequence: Sequence::new(0, position).expect("fewer than 2^47 events") }
    }

    /// The event as a consumer receives it, at the next place.
    #[must_use]
    pub fn receive(&self, event: NewEvent) -> ReceivedEvent {
        ReceivedEvent { origin: Some(self.next()), event: event.into_event() }
    }

    /// The event as it stands in the log, at the next place, in a log of 64 lanes.
    #[must_use]
    pub fn record(&self, event: NewEvent) -> crate::event::RecordedEvent {
        let event = event.into_event();
        let lane = crate::event::LaneCount::default().lane_of(&event.lane_key());
        crate::event::RecordedEvent { origin: self.next(), lane, event }
    }
}
