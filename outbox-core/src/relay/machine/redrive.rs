//! Parked events of a lane that are published again.

use std::collections::{HashSet, VecDeque};

use super::pages::{Body, EventRef, Pages};

/// They belong to no page of a track: whatever becomes of them, they stay parked until that is recorded.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Redrives {
    events: VecDeque<Redrive>,
    /// The number of the event at the front.
    first: u64,
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Redrive {
    pub(super) event: EventRef,
    pub(super) hash: u64,
    pub(super) key: Box<str>,
    /// How often it was tried before.
    pub(super) attempts: u32,
    /// It was refused before, and is sent by itself.
    pub(super) isolated: bool,
    pub(super) state: RedriveState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RedriveState {
    Waiting,
    InFlight,
    /// Published, which is not recorded yet.
    Delivered,
    /// Refused, and not parked again yet.
    Refused,
    /// Nothing more to do.
    Gone,
}

impl Redrives {
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn push(&mut self, redrive: Redrive) {
        self.events.push_back(redrive);
    }

    pub(super) fn get(&mut self, number: u64) -> Option<&mut Redrive> {
        self.events.get_mut(number.checked_sub(self.first)? as usize)
    }

    /// The keys of which something is not settled yet.
    pub(super) fn has_key(&self, key: &str) -> bool {
        self.events.iter().any(|redrive| redrive.state != RedriveState::Gone && *redrive.key == *key)
    }

    /// Those to send next, and whether by themselves.
    pub(super) fn next(&self, limit: usize, one_per_key: bool) -> Option<(Vec<u64>, bool)> {
        if limit == 0 {
            return None;
        }
        let mut keys = HashSet::new();
        let mut waiting =
            (self.first..).zip(&self.events).filter(|(_, redrive)| redrive.state == RedriveState::Waiting).peekable();
        let (number, first) = waiting.peek()?;
        if first.isolated {
            return Some((vec![*number], true));
        }
        let together = waiting.take_while(|(_, redrive)| !redrive.isolated);
        let chosen = together.filter(|(_, redrive)| !one_per_key || keys.insert(&redrive.key));
        Some((chosen.map(|(number, _)| number).take(limit).collect(), false))
    }

    /// Nothing of them is under way; what waits may be dropped at any time, since it stays parked.
    pub(super) fn is_quiet(&self) -> bool {
        self.events.iter().all(|redrive| matches!(redrive.state, RedriveState::Waiting | RedriveState::Gone))
    }

    /// Drops what waits, of one key or all.
    pub(super) fn drop_waiting<B: Body>(&mut self, key: Option<&str>, pages: &mut Pages<B>) {
        let of_key = |redrive: &&mut Redrive| key.is_none_or(|key| *redrive.key == *key);
        for redrive in self.events.iter_mut().filter(of_key) {
            if redrive.state == RedriveState::Waiting {
                redrive.settle(pages);
            }
        }
        self.forget_gone();
    }

    pub(super) fn forget_gone(&mut self) {
        while self.events.front().is_some_and(|redrive| redrive.state == RedriveState::Gone) {
            self.events.pop_front();
            self.first += 1;
        }
    }
}

impl Redrive {
    pub(super) fn settle<B: Body>(&mut self, pages: &mut Pages<B>) {
        if self.state != RedriveState::Gone {
            self.state = RedriveState::Gone;
            if pages.event_done(self.event.page) {
                pages.remove(self.event.page);
            }
        }
    }
}
