//! Events that cannot be published, set aside so that everything else flows.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::event::{Lane, RecordedEvent, Sequence};

/// The most events of one key that [`EventLog::due_parked`](super::EventLog::due_parked) gives at a time, so that a long
/// queue behind one key does not keep the others waiting.
pub const DUE_OF_A_KEY: usize = 20;

/// An event that a member sets aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Park {
    /// Which event.
    pub sequence: Sequence,
    /// Its lane, which has to be the member's.
    pub lane: Lane,
    /// Why. `None`: it did not fail itself, but is to wait behind an event of its key that did.
    pub failure: Option<ParkFailure>,
}

/// Why an event is set aside, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParkFailure {
    /// For people, at most 2,000 characters of it are kept.
    pub reason: String,
    /// How often it was tried by now; at least 1.
    pub attempts: u32,
    /// When to try again, from now; `None`: only when somebody asks for it.
    pub retry_in: Option<Duration>,
}

/// What became of a [`Park`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Parked {
    /// It is set aside, and its key is blocked.
    Yes,
    /// Its key is not blocked (any more): nothing was set aside, publish it. Only for a park without failure.
    NotBlocked,
}

/// A parked event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedEvent {
    /// The event, as it stands in the log or stood there.
    pub event: RecordedEvent,
    /// Why it is here.
    pub state: ParkState,
    /// Why it failed last; empty when it never failed itself.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Since when.
    pub parked_at: DateTime<Utc>,
    /// When it is tried again by itself.
    pub retry_at: Option<DateTime<Utc>>,
}

/// Why a parked event is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ParkState {
    /// It failed and is tried again at [`ParkedEvent::retry_at`].
    Retrying,
    /// It failed and waits for somebody to redrive or discard it.
    Parked,
    /// An earlier event of its key failed.
    Behind,
}

/// A parked event that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Republished {
    /// Which event.
    pub sequence: Sequence,
    /// Its lane.
    pub lane: Lane,
    /// Its key, see [`Event::lane_key`](crate::event::Event::lane_key).
    pub lane_key: String,
}

/// What became of the key of a parked event that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Redriven {
    /// More events of it are parked.
    KeyBlocked,
    /// None is left: the key flows again.
    KeyFree,
}
