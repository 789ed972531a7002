use std::time::Duration;

use chrono::{DateTime, Utc};
use outbox_core::{
    event::Sequence,
    projection::Applied,
    source::{Batch, Partition, SourcePosition},
};

use super::{PartitionState, ProjectorError};

/// What a worker is told.
pub(super) enum Order {
    /// The source delivers from the position that was reported; batches that came before this order are void.
    Begin,
    Batch(Batch),
}

/// What a worker says, with the number of its seat: a partition that comes again has another seat.
pub(super) struct FromSeat {
    pub(super) partition: Partition,
    pub(super) seat: u64,
    pub(super) report: Report,
}

pub(super) enum Report {
    /// The partition is to be started behind this position.
    Ready(Option<SourcePosition>),
    Done(Done),
    /// The same is tried again after `delay`.
    Waits {
        state: PartitionState,
        error: String,
        delay: Duration,
    },
    /// Somebody else moved the position.
    Conflict,
    /// A record waits for somebody to act.
    Held {
        error: String,
    },
    /// The projector has to end.
    Ends(ProjectorError),
}

/// A step took effect.
#[derive(Default)]
pub(super) struct Done {
    /// So many records of the source's batches are off the worker's hands.
    pub(super) records: usize,
    /// Where the partition stands; `None`: where it stood.
    pub(super) position: Option<SourcePosition>,
    pub(super) applied: Applied,
    pub(super) undecodable: usize,
    pub(super) dead_letters: usize,
    pub(super) last: Option<Last>,
}

/// The last event of a step.
#[derive(Clone, Copy)]
pub(super) struct Last {
    pub(super) sequence: Option<Sequence>,
    pub(super) created_at: DateTime<Utc>,
}
