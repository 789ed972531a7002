//! What retention does next: the half of it without a database.
//!
//! Positions are removed in order, and two marks are kept. Up to `pruned` everything was removed that could be seen and
//! that every consumer had passed; what is left there was written by transactions that were still open then, or has not
//! been met by some consumer. Up to `swept` nothing is left and nothing can appear. What is between the two marks is
//! walked a second time when it has *settled*, that is when every transaction that drew such a position has ended. Mostly
//! it has settled beforehand, and one walk moves both marks.

use crate::postgres::cursor::Drawn;

/// So many positions belong to one window of a ring, and are next to each other in one leaf.
pub(super) const WINDOW_BITS: u32 = 20;

/// The leaves of a ring.
pub(super) const LEAVES: u64 = 16;

/// How far retention came, and the moment it waits to settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) pruned: u64,
    pub(super) swept: u64,
    pub(super) awaited: Drawn,
    /// The table is a ring of leaves.
    pub(super) ring: bool,
}

/// What is known when a step begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Course {
    pub(super) marks: Marks,
    /// The highest position issued.
    pub(super) head: u64,
    /// The highest position that may go by count, and that every consumer has reached.
    pub(super) target: u64,
    /// See [`Seen::settled`](crate::postgres::cursor::Seen::settled).
    pub(super) settled: u64,
}

/// What was tried in this call and is not tried again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct GivenUp {
    /// An event that has to stay ended the walk that moves `swept`.
    pub(super) sweeping: bool,
    /// An event that has to stay ended the walk that moves `pruned`.
    pub(super) pruning: bool,
    /// The leaf could not be had, or holds what has to stay.
    pub(super) emptying: bool,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Delete what is above `after` and up to `upto`; all of it is settled when it `sweeps`.
    Delete { after: u64, upto: u64, sweeps: bool },
    /// Empty the leaf whose oldest window ends at `end`.
    Empty { leaf: u64, end: u64 },
}

impl Course {
    /// The next step, of at most `positions`; a leaf that is emptied counts as one.
    pub(super) fn next(&self, positions: u64, given_up: GivenUp) -> Option<Work> {
        let Marks { pruned, swept, ring, .. } = self.marks;
        let settled = self.settled.min(self.target);
        if ring && swept < settled && !given_up.emptying {
            let window = window_of(swept + 1);
            let end = last_of(window);
            if end <= settled && self.windows_since(window) < LEAVES {
                return Some(Work::Empty { leaf: window % LEAVES, end });
            }
        }
        if swept < settled && !given_up.sweeping && self.row_by_row(swept) {
            return Some(Work::Delete { after: swept, upto: settled.min(swept + positions), sweeps: true });
        }
        let after = pruned.max(swept);
        let upto = self.target.min(after + positions);
        (after < upto && !given_up.pruning && self.row_by_row(after)).then_some(Work::Delete {
            after,
            upto,
            sweeps: false,
        })
    }

    /// Whether the rows behind this position are removed one by one. In a ring only those that soon have to make room for
    /// others, and those of the window being written, so that a small log is pruned at all; the others wait until the
    /// whole leaf can be emptied.
    fn row_by_row(&self, after: u64) -> bool {
        let since = self.windows_since(window_of(after + 1));
        !self.marks.ring || since == 0 || since >= LEAVES / 2
    }

    /// How many windows were begun after this one.
    fn windows_since(&self, window: u64) -> u64 {
        window_of(self.head).saturating_sub(window)
    }
}

impl Marks {
    /// As they are good for this server: after a restore the log may have gone back behind them, and transaction ids
    /// may have begun anew.
    pub(super) fn on(self, now: Drawn) -> Self {
        let stale = self.awaited.next_xid > now.next_xid || self.awaited.position > now.position;
        let (pruned, swept) = (self.pruned.min(now.position), self.swept.min(now.position));
        // What was waited for is settled and swept: wait for the next moment.
        let awaited = if stale || swept >= self.awaited.position { now } else { self.awaited };
        Self { pruned, swept, awaited, ..self }
    }
}

fn window_of(position: u64) -> u64 {
    position >> WINDOW_BITS
}

fn last_of(window: u64) -> u64 {
    ((window + 1) << WINDOW_BITS) - 1
}

#[cfg(test)]
#[path = "course_tests.rs"]
mod tests;
