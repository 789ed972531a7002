use std::sync::Arc;

use crate::event::{Lane, LaneSet};

/// What a relay is doing, as of its last step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RelayStatus {
    /// Its state.
    pub state: RelayState,
    /// The lanes it owns, of those the relays of the consumer share.
    pub lanes: LaneSet,
    /// Lanes that wait after a failure.
    pub paused: LaneSet,
    /// Into how many groups its lanes fall that are read apart, because they stand at different places. One, unless
    /// lanes were taken over or are stuck.
    pub tracks: usize,
    /// Events read since the start.
    pub read: u64,
    /// Events acknowledged since the start, redriven ones included.
    pub published: u64,
    /// Failed attempts since the start, each event counted each time.
    pub failed: u64,
    /// Events set aside since the start, because they were refused or had to wait behind such a one.
    pub parked: u64,
    /// Parked events that were published since the start.
    pub redriven: u64,
    /// Keys of its lanes whose events are set aside now. One that was freed by a discard counts until its next event.
    pub blocked_keys: usize,
    /// Events handed to the publisher and not yet reported.
    pub in_flight: usize,
    /// The highest position read in the log.
    pub read_position: u64,
    /// The lowest position that its lanes have passed by the last checkpoint, of those that have passed an event since
    /// they are its own. It goes back when lanes come that are behind.
    pub checkpoint_position: u64,
    /// Checkpoints recorded since the start.
    pub checkpoints: u64,
    /// How often its membership was found to be over: it had not renewed its lease in time.
    pub fenced: u64,
    /// The last failure, while it lasts.
    pub last_error: Option<String>,
}

impl RelayStatus {
    /// The lanes and all that is about them.
    pub(super) fn lose_lanes(&mut self) {
        let Self { lanes, paused, tracks, blocked_keys, in_flight, .. } = Self::default();
        (self.lanes, self.paused, self.tracks) = (lanes, paused, tracks);
        (self.blocked_keys, self.in_flight) = (blocked_keys, in_flight);
    }
}

/// A lane of a relay, as of a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneStatus {
    /// Which one.
    pub lane: Lane,
    /// Everything up to this position is published or parked. 0 until it has passed an event since it is the relay's.
    pub position: u64,
    /// Events read and not yet handed to the publisher.
    pub waiting: usize,
    /// Events handed to the publisher and not yet reported.
    pub in_flight: usize,
    /// Its keys whose events are set aside now.
    pub blocked_keys: usize,
    /// Failures in a row that were no event's own.
    pub failures: u32,
    /// Whether it waits after such a failure.
    pub paused: bool,
    /// Its last failure, until something of it is published again.
    pub last_error: Option<Arc<str>>,
}

/// The state of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RelayState {
    /// Not running yet, or not yet a member of the consumer.
    #[default]
    Starting,
    /// Other members own all lanes.
    Standby,
    /// Owns lanes and publishes.
    Active,
    /// An operator paused the consumer: the lanes are kept, nothing is read or sent.
    Paused,
    /// Finishes what is under way.
    Stopping,
    /// Ended.
    Stopped,
}
