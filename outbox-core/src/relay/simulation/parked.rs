//! Parked events, as a log keeps them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Ev, Flaw,
    broker::Broker,
    invariant::{Checked, Invariant},
    lane,
};
use crate::{
    event::LaneSet,
    log::{Parked, Redriven},
};

/// The most events of a key that are given at a time: few, so that a key takes several rounds.
const OF_A_KEY: usize = 3;

#[derive(Debug, Clone, Default, Hash)]
pub(super) struct ParkedEvents {
    rows: BTreeMap<u64, Row>,
    discarded: BTreeSet<u64>,
    requested: BTreeSet<(u8, u8)>,
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Row {
    pub(super) event: Ev,
    failed: bool,
    pub(super) attempts: u32,
    retry_at: Option<Instant>,
}

/// Why an event is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Failure {
    pub(super) attempts: u32,
    pub(super) retry_in: Option<Duration>,
}

impl ParkedEvents {
    /// Whether it is parked, or was and is discarded.
    pub(super) fn knows(&self, position: u64) -> bool {
        self.holds(position) || self.is_discarded(position)
    }

    pub(super) fn holds(&self, position: u64) -> bool {
        self.rows.contains_key(&position)
    }

    pub(super) fn is_discarded(&self, position: u64) -> bool {
        self.discarded.contains(&position)
    }

    pub(super) fn has_discarded(&self) -> bool {
        !self.discarded.is_empty()
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = u64> {
        self.rows.keys().copied()
    }

    /// The first parked event of each key.
    pub(super) fn blocked(&self, lanes: LaneSet) -> Vec<Ev> {
        let mut keys = BTreeSet::new();
        let of_lanes = self.rows.values().map(|row| row.event).filter(|e| lanes.contains(lane(e.lane)));
        of_lanes.filter(|e| keys.insert((e.lane, e.key))).collect()
    }

    pub(super) fn park(
        &mut self,
        event: Ev,
        failure: Option<Failure>,
        broker: &Broker,
        flaw: Option<Flaw>,
        now: Instant,
    ) -> Checked<Parked> {
        let key = (event.lane, event.key);
        match failure {
            _ if self.is_discarded(event.position) => {}
            None if self.holds(event.position) => {}
            None if !self.is_blocked(key) || flaw == Some(Flaw::BlockedKeysAreNotSeen) => {
                return Ok(Parked::NotBlocked);
            }
            None => {
                self.rows.insert(event.position, Row { event, failed: false, attempts: 0, retry_at: None });
            }
            Some(Failure { attempts, retry_in }) => {
                let guilty = broker.was_refused_alone(event.position);
                Invariant::InnocentsAreNeverParked.holds(guilty, || format!("{event:?} was not refused by itself"))?;
                self.requested.remove(&key);
                let retry_at = retry_in.map(|wait| now + wait);
                self.rows.insert(event.position, Row { event, failed: true, attempts, retry_at });
            }
        }
        Ok(Parked::Yes)
    }

    /// Of each key that is due the first events.
    pub(super) fn due(&self, lanes: LaneSet, limit: usize, now: Instant) -> Vec<Row> {
        let mut left: BTreeMap<(u8, u8), usize> = BTreeMap::new();
        let mut found = Vec::new();
        for row in self.rows.values().filter(|row| lanes.contains(lane(row.event.lane))) {
            let left = left.entry((row.event.lane, row.event.key)).or_insert_with_key(|key| {
                let asked = self.requested.contains(key);
                // One that no longer has a failed one in front of it is due at once.
                let is_due = asked || !row.failed || row.retry_at.is_some_and(|at| at <= now);
                if is_due { OF_A_KEY } else { 0 }
            });
            if *left > 0 && found.len() < limit {
                *left -= 1;
                found.push(row.clone());
            }
        }
        found
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.due(LaneSet::from_mask(u64::MAX), 1, now).is_empty()
    }

    /// Whether somebody asked for what is parked in these lanes.
    pub(super) fn is_requested(&self, lanes: LaneSet) -> bool {
        self.requested.iter().any(|(of, _)| lanes.contains(lane(*of)))
    }

    /// When the next one is due that is not yet.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.rows.values().filter_map(|row| row.retry_at).filter(|at| *at > now).min()
    }

    pub(super) fn redriven(&mut self, events: &[Ev], broker: &Broker, flaw: Option<Flaw>) -> Checked<Vec<Redriven>> {
        for event in events {
            let delivered = broker.is_acknowledged(event.position);
            Invariant::NothingIsLost.holds(delivered, || format!("{event:?} is unparked, and was not delivered"))?;
            self.rows.remove(&event.position);
            self.forget_request((event.lane, event.key));
        }
        let state = |event: &Ev| {
            let blocked = self.is_blocked((event.lane, event.key)) && flaw != Some(Flaw::KeysAreFreedTooEarly);
            if blocked { Redriven::KeyBlocked } else { Redriven::KeyFree }
        };
        Ok(events.iter().map(state).collect())
    }

    // What operators do.

    pub(super) fn discard(&mut self, position: u64) {
        if let Some(row) = self.rows.remove(&position) {
            self.discarded.insert(position);
            self.forget_request((row.event.lane, row.event.key));
        }
    }

    pub(super) fn redrive_all(&mut self) {
        self.requested.extend(self.rows.values().map(|row| (row.event.lane, row.event.key)));
    }

    fn is_blocked(&self, key: (u8, u8)) -> bool {
        self.rows.values().any(|row| (row.event.lane, row.event.key) == key)
    }

    fn forget_request(&mut self, key: (u8, u8)) {
        if !self.is_blocked(key) {
            self.requested.remove(&key);
        }
    }
}
