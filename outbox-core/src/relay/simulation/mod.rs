//! Relays in a world of their own: the state machine as it is, around it a log, a broker, processes and operators that
//! do whatever their contracts allow.
//!
//! [`world`] says what can happen, [`invariant`] what may never happen. [`checker`] takes every path through small
//! worlds, [`seeds`] random ones through larger worlds on virtual time, and [`mutations`] leaves out one guard after the
//! other, to show that each is missed.

mod broker;
mod checker;
mod invariant;
mod log;
mod mutations;
mod parked;
mod rest;
mod scenarios;
mod seeds;
mod tenure;
mod world;

use std::{borrow::Cow, sync::Arc, time::Duration};

use super::machine::{Arrival, Body, Rules};
use crate::{
    event::Lane,
    log::Cursor,
    retry::{Backoff, RetryPolicy},
};

/// An event of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::relay) struct Ev {
    lane: u8,
    /// Which key of its lane.
    key: u8,
    position: u64,
    /// The one before of its key.
    before: Option<u64>,
}

/// A page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(in crate::relay) struct Events(Arc<Vec<Ev>>);

/// A promise that the log, the publisher or the driver does not keep. Those of the machine are
/// [`Guard`](super::machine::Guard)s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Flaw {
    /// The log takes the writes of memberships that are over.
    FenceIsIgnored,
    /// The log does not look whether a key is blocked when an event is to be parked behind it.
    BlockedKeysAreNotSeen,
    /// The log calls a key free that still has parked events.
    KeysAreFreedTooEarly,
    /// The publisher writes what follows a failure.
    NothingIsAborted,
    /// The publisher acknowledges what it does not write.
    AcknowledgedIsNotWritten,
    /// The driver blames everything that was refused together.
    SuspectsAreBlamed,
    /// The driver blames events for a broker that is away.
    OutagesAreBlamed,
    /// The driver takes everything for parked that it asked for.
    RefusalsToParkAreNotHeard,
}

impl Body for Events {
    fn lane_key(&self, index: u32) -> Cow<'_, str> {
        Cow::Owned(key_of(self.0[index as usize]))
    }

    fn place(&self, index: u32) -> Option<(Lane, u64)> {
        self.0.get(index as usize).map(|event| (lane(event.lane), event.position))
    }
}

impl Events {
    fn arrivals(&self) -> Vec<Arrival> {
        let arrival =
            |event: &Ev| Arrival { lane: lane(event.lane), hash: hash_of(*event), position: event.position, bytes: 20 };
        self.0.iter().map(arrival).collect()
    }
}

fn key_of(event: Ev) -> String {
    format!("{}/{}", event.lane, event.key)
}

/// Keys 0 and 2 of a lane have the same hash, and 1 and 3.
fn hash_of(event: Ev) -> u64 {
    u64::from(event.key % 2)
}

fn lane(n: u8) -> Lane {
    Lane::new(n).expect("lane")
}

fn cursor(position: u64) -> Cursor {
    Cursor::from_text(position.to_string())
}

fn position(cursor: &Cursor) -> u64 {
    cursor.as_text().parse().expect("cursor")
}

/// Without waits: what has to wait is a matter of order, and all orders are tried.
fn timeless() -> Rules {
    let at_once = Backoff::new(Duration::ZERO, Duration::ZERO);
    Rules {
        window: 4,
        window_bytes: usize::MAX,
        lane_in_flight: 3,
        keeps_order_after_failure: true,
        backoff: at_once,
        retry: RetryPolicy::new(2, at_once),
        checkpoint_every: Duration::ZERO,
        checkpoint_events: 1,
        idle_checkpoint_every: Duration::ZERO,
    }
}
