//! The advisory locks that serialise writers.

use outbox_core::event::{Event, Lane, LaneCount, LogId};
use sha2::{Digest, Sha256};

/// An append of more keys than this locks their lanes instead. The server's lock table has room for
/// `max_locks_per_transaction` (64 by default) times `max_connections` locks, for all sessions together.
const MOST_KEYS: usize = 512;

/// What one call locks, in the one order that all calls follow: lanes, then keys, each ascending.
pub(super) struct Locks {
    pub(super) lanes: Vec<i64>,
    pub(super) keys: Vec<i64>,
    /// The lanes are to be owned, not shared.
    pub(super) bulk: bool,
}

impl Locks {
    pub(super) fn none() -> Self {
        Self { lanes: Vec::new(), keys: Vec::new(), bulk: false }
    }

    /// Every writer shares the locks of its lanes and owns those of its keys; a writer of very many keys owns the lanes,
    /// and with them all their keys. Unordered events need neither.
    pub(super) fn new<'e>(log: LogId, rows: impl Iterator<Item = (&'e Event, Lane)>) -> Self {
        let mut present = [false; LaneCount::MAX as usize];
        let mut keys = Vec::new();
        for (event, lane) in rows.filter(|(event, _)| !event.unordered) {
            present[usize::from(lane.get())] = true;
            keys.push(number(log, b'k', event.lane_key().as_bytes()));
        }
        keys.sort_unstable();
        keys.dedup();
        let bulk = keys.len() > MOST_KEYS;
        if bulk {
            keys.clear();
        }
        let mut lanes: Vec<i64> =
            (0..LaneCount::MAX).filter(|n| present[usize::from(*n)]).map(|n| number(log, b'l', &[n])).collect();
        lanes.sort_unstable();
        lanes.dedup();
        Self { lanes, keys, bulk }
    }
}

/// The number of an advisory lock. Logs in one database must not wait for each other, so the log is part of it. The same
/// rule stands in SQL, so that writers without this library wait for the same locks.
fn number(log: LogId, kind: u8, key: &[u8]) -> i64 {
    let hash = Sha256::new().chain_update(log.0.as_bytes()).chain_update([kind]).chain_update(key).finalize();
    i64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
}
