use crate::event::LaneSet;

/// What a relay is doing, as of its last step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RelayStatus {
    /// Its state.
    pub state: RelayState,
    /// The lanes it owns.
    pub lanes: LaneSet,
    /// Lanes that wait after a failure.
    pub paused: LaneSet,
    /// Events read since the start.
    pub read: u64,
    /// Events acknowledged since the start.
    pub published: u64,
    /// Failed attempts since the start, each event counted each time.
    pub failed: u64,
    /// Events handed to the publisher and not yet reported.
    pub in_flight: usize,
    /// The highest position read in the log.
    pub read_position: u64,
    /// The highest position whose checkpoint was recorded: everything before it is published.
    pub checkpoint_position: u64,
    /// Checkpoints recorded since the start.
    pub checkpoints: u64,
    /// How often another member took over.
    pub fenced: u64,
    /// The last failure, while it lasts.
    pub last_error: Option<String>,
}

/// The state of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RelayState {
    /// Not running yet.
    #[default]
    Starting,
    /// Another member owns the lanes.
    Standby,
    /// Owns lanes and publishes.
    Active,
    /// Finishes what is under way.
    Stopping,
    /// Ended.
    Stopped,
}
