//! What the relay is doing, for whoever looks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Tenure;
use crate::{
    error::chain,
    event::Lane,
    publisher::PublishError,
    relay::{LaneStatus, RelayState, RelayStatus},
};

/// How often lanes are shown one by one while the relay is busy: it costs more than a step of the relay.
const LANES: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Showing {
    /// Events parked and redriven before this time of membership.
    counted: (u64, u64),
    /// The last failure of each lane, while it lasts.
    errors: HashMap<Lane, Arc<str>>,
    lanes_at: Instant,
    /// Nothing was under way at the last step.
    quiet: bool,
}

impl Showing {
    pub(super) fn new(status: &RelayStatus) -> Self {
        Self {
            counted: (status.parked, status.redriven),
            errors: HashMap::new(),
            lanes_at: Instant::now(),
            quiet: false,
        }
    }

    pub(super) fn failed(&mut self, lane: Lane, error: &PublishError) {
        self.errors.insert(lane, chain(error).into());
    }

    /// Something of the lane was published, and nothing of it waits after a failure.
    pub(super) fn flows(&mut self, lane: Lane) {
        self.errors.remove(&lane);
    }
}

impl Tenure<'_> {
    pub(super) fn show(&mut self, now: Instant) {
        let machine = &self.machine;
        let (parked, redriven, blocked_keys) = machine.parking_counts();
        let (lanes, paused) = (machine.lanes(), machine.paused());
        let state = match () {
            () if self.stop_at.is_some() => RelayState::Stopping,
            () if self.paused => RelayState::Paused,
            () if lanes.is_empty() => RelayState::Standby,
            () => RelayState::Active,
        };
        let counts = (self.showing.counted.0 + parked, self.showing.counted.1 + redriven);
        let sizes = (machine.in_flight(), machine.tracks(), blocked_keys);
        self.relay.status.send_if_modified(|status| {
            let before = (
                (status.state, status.lanes, status.paused),
                (status.in_flight, status.tracks, status.blocked_keys),
                (status.parked, status.redriven),
            );
            (status.state, status.lanes, status.paused) = (state, lanes, paused);
            (status.in_flight, status.tracks, status.blocked_keys) = sizes;
            (status.parked, status.redriven) = counts;
            before != ((state, lanes, paused), sizes, counts)
        });
        let quiet = machine.in_flight() == 0;
        if now >= self.showing.lanes_at || quiet && !self.showing.quiet {
            self.showing.lanes_at = now + LANES;
            self.show_lanes();
        }
        self.showing.quiet = quiet;
    }

    fn show_lanes(&mut self) {
        let paused = self.machine.paused();
        let lane = |(lane, position)| {
            let counts = self.machine.lane_counts(lane);
            LaneStatus {
                lane,
                position,
                waiting: counts.waiting,
                in_flight: counts.in_flight,
                blocked_keys: counts.blocked_keys,
                failures: counts.failures,
                paused: paused.contains(lane),
                last_error: self.showing.errors.get(&lane).cloned(),
            }
        };
        let lanes: Vec<LaneStatus> = self.machine.done().into_iter().map(lane).collect();
        self.relay.lanes.send_if_modified(|shown| {
            let changed = *shown != lanes;
            *shown = lanes;
            changed
        });
        self.meters.follow(&self.relay.status.borrow());
        self.meters.unpublished(self.unpublished_age());
    }

    /// The age of the oldest event that was read and is not done.
    fn unpublished_age(&self) -> Duration {
        let written = |event| Some(self.machine.body(event)?.get(event.index)?.event.created_at);
        let oldest = self.machine.oldest().filter_map(written).min();
        oldest.and_then(|at| (chrono::Utc::now() - at).to_std().ok()).unwrap_or_default()
    }
}
