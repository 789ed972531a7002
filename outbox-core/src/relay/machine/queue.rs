//! One lane: what waits, what is under way, and whether it may be sent.

use std::collections::{BTreeSet, HashSet, VecDeque};

use tokio::time::Instant;

use super::{
    blocked::BlockedKeys,
    guard::Guard,
    pages::{Body, EventRef, PageId, Pages},
    redrive::{RedriveState, Redrives},
};
use crate::event::Lane;

#[derive(Debug, Clone, Default, Hash)]
pub(super) struct LaneQueue {
    /// Events from the oldest undone one on.
    entries: VecDeque<Entry>,
    /// The number of the entry at the front.
    first: u64,
    /// Entries before this number are not waiting, as long as the lane does not fail.
    unsent: u64,
    /// Entries that were refused together with others: they are sent before all else, each by itself.
    suspects: BTreeSet<u64>,
    /// What is under way is sent by itself, and nothing joins it.
    isolated: bool,
    /// Positions of events that are done and will be read again.
    ahead: BTreeSet<u64>,
    pub(super) redrives: Redrives,
    pub(super) blocked: BlockedKeys,
    /// A few.
    batches: Vec<Batch>,
    pub(super) in_flight: usize,
    /// Entries that are to be parked.
    parking: usize,
    /// What was refused since the stream broke, and why.
    pub(super) refused: Vec<(Slot, Box<str>)>,
    /// Something failed: nothing is sent until everything is reported.
    pub(super) broken: Option<Breakage>,
    /// The stream has to be replaced before the next batch.
    pub(super) reopen: bool,
    /// Failures in a row that were no event's own.
    pub(super) attempts: u32,
    pub(super) paused_until: Option<Instant>,
}

/// Why nothing is sent.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Breakage {
    /// Something failed by no event's own fault.
    pub(super) setback: bool,
    /// Something failed by the fault of one of several events.
    pub(super) suspected: bool,
}

/// An event of a lane by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    Entry(u64),
    Redrive(u64),
}

#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct Entry {
    pub(super) event: EventRef,
    pub(super) hash: u64,
    pub(super) state: EntryState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum EntryState {
    Waiting,
    InFlight,
    /// To be parked because it was refused.
    Refused,
    /// To be parked because its key is blocked.
    Behind,
    /// To be parked because its key is blocked, and the log was asked.
    Parking,
    /// Delivered or parked.
    Done,
}

/// The events of a batch, and how many of them were not reported yet.
#[derive(Debug, Clone, Hash)]
pub(super) struct Batch {
    number: u64,
    redriven: bool,
    pub(super) isolated: bool,
    numbers: Vec<u64>,
    unreported: usize,
}

impl LaneQueue {
    /// Takes an event in that was read. Returns whether it is to be done.
    pub(super) fn push(&mut self, event: EventRef, hash: u64, position: u64) -> bool {
        let done = !self.ahead.is_empty() && self.ahead.remove(&position);
        let state = if done { EntryState::Done } else { EntryState::Waiting };
        self.entries.push_back(Entry { event, hash, state });
        if done {
            self.forget_done();
        }
        !done
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        self.entries.get_mut(number.checked_sub(self.first)? as usize)
    }

    pub(super) fn oldest(&self) -> Option<EventRef> {
        self.entries.front().map(|entry| entry.event)
    }

    pub(super) fn oldest_page(&self) -> Option<PageId> {
        self.oldest().map(|event| event.page)
    }

    pub(super) fn waiting_to_be_sent(&self) -> usize {
        self.entries.iter().filter(|entry| entry.state == EntryState::Waiting).count()
    }

    /// The events to send now, and whether by themselves. Redriven ones first: they are older than anything else of their
    /// keys; then suspects, so that nothing of their keys overtakes them. Entries of blocked keys are left out and added
    /// to `behind`.
    pub(super) fn start_batch<B: Body>(
        &mut self,
        batch: u64,
        limit: usize,
        one_per_key: bool,
        pages: &Pages<B>,
        behind: &mut Vec<u64>,
    ) -> Option<(Vec<EventRef>, bool)> {
        if self.isolated && self.in_flight > 0 && Guard::IsolationLasts.stands() {
            return None;
        }
        if let Some((numbers, isolated)) = self.redrives.next(limit, one_per_key) {
            if isolated && self.in_flight > 0 {
                return None;
            }
            let events = numbers.iter().filter_map(|&number| {
                let redrive = self.redrives.get(number)?;
                redrive.state = RedriveState::InFlight;
                Some(redrive.event)
            });
            let events = events.collect();
            return Some(self.started(Batch::new(batch, numbers, true, isolated), events));
        }
        if !self.suspects.is_empty() {
            if self.in_flight > 0 {
                return None;
            }
            if let Some(number) = self.next_suspect(pages, behind) {
                return Some(self.start_entries(batch, vec![number], true));
            }
        }
        let numbers = if one_per_key {
            self.waiting_one_per_key(limit, pages, behind)
        } else {
            self.waiting(limit, pages, behind)
        };
        (!numbers.is_empty()).then(|| self.start_entries(batch, numbers, false))
    }

    fn start_entries(&mut self, batch: u64, numbers: Vec<u64>, isolated: bool) -> (Vec<EventRef>, bool) {
        let mut events = Vec::with_capacity(numbers.len());
        for &number in &numbers {
            let entry = &mut self.entries[(number - self.first) as usize];
            entry.state = EntryState::InFlight;
            events.push(entry.event);
        }
        self.started(Batch::new(batch, numbers, false, isolated), events)
    }

    fn started(&mut self, batch: Batch, events: Vec<EventRef>) -> (Vec<EventRef>, bool) {
        self.in_flight += events.len();
        self.isolated = batch.isolated;
        self.batches.push(batch);
        (events, self.isolated)
    }

    fn next_suspect<B: Body>(&mut self, pages: &Pages<B>, behind: &mut Vec<u64>) -> Option<u64> {
        while let Some(number) = self.suspects.first().copied() {
            let waits = self.entry(number).is_some_and(|entry| entry.state == EntryState::Waiting);
            if waits && !self.leave_behind(number, pages, behind) {
                return Some(number);
            }
            self.suspects.remove(&number);
        }
        None
    }

    /// Whether the entry has to be parked because its key is blocked.
    fn leave_behind<B: Body>(&mut self, number: u64, pages: &Pages<B>, behind: &mut Vec<u64>) -> bool {
        let entry = &mut self.entries[(number - self.first) as usize];
        let blocked =
            self.blocked.contains(entry.hash, || pages.lane_key(entry.event)) && Guard::BlockedKeysWait.stands();
        if blocked {
            entry.state = EntryState::Behind;
            self.parking += 1;
            behind.push(number);
        }
        blocked
    }

    fn waiting<B: Body>(&mut self, limit: usize, pages: &Pages<B>, behind: &mut Vec<u64>) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut number = self.unsent.max(self.first);
        while numbers.len() < limit {
            let Some(entry) = self.entries.get((number - self.first) as usize) else { break };
            if entry.state == EntryState::Waiting && !self.leave_behind(number, pages, behind) {
                numbers.push(number);
            }
            number += 1;
        }
        self.unsent = number;
        numbers
    }

    fn waiting_one_per_key<B: Body>(&mut self, limit: usize, pages: &Pages<B>, behind: &mut Vec<u64>) -> Vec<u64> {
        let mut keys = HashSet::new();
        let mut numbers = Vec::new();
        for number in self.first..self.first + self.entries.len() as u64 {
            if numbers.len() == limit {
                break;
            }
            let Entry { state, hash, .. } = self.entries[(number - self.first) as usize];
            if state == EntryState::Waiting && !self.leave_behind(number, pages, behind) && keys.insert(hash) {
                numbers.push(number);
            }
        }
        numbers
    }

    /// The batch of this number, to be put back when its reports are taken in.
    pub(super) fn take_batch(&mut self, number: u64) -> Option<Batch> {
        let at = self.batches.iter().position(|batch| batch.number == number)?;
        Some(self.batches.swap_remove(at))
    }

    pub(super) fn put_back(&mut self, batch: Batch) {
        if batch.unreported > 0 {
            self.batches.push(batch);
        }
    }

    /// The event that a report is about; `None` when the report repeats an earlier one.
    pub(super) fn reported(&mut self, batch: &mut Batch, index: usize) -> Option<Slot> {
        let number = *batch.numbers.get(index)?;
        let slot = if batch.redriven {
            let redrive = self.redrives.get(number)?;
            (redrive.state == RedriveState::InFlight).then_some(Slot::Redrive(number))?
        } else {
            // Below the front: done before.
            let entry = self.entries.get(number.checked_sub(self.first)? as usize)?;
            (entry.state == EntryState::InFlight).then_some(Slot::Entry(number))?
        };
        batch.unreported -= 1;
        self.in_flight -= 1;
        Some(slot)
    }

    /// An event was refused together with others: it waits to be sent by itself.
    pub(super) fn suspect(&mut self, slot: Slot) {
        self.wait_again(slot);
        match slot {
            Slot::Entry(number) => {
                self.suspects.insert(number);
            }
            Slot::Redrive(number) => {
                if let Some(redrive) = self.redrives.get(number) {
                    redrive.isolated = true;
                }
            }
        }
    }

    /// An entry is delivered or parked. Returns whether its page is done with it.
    pub(super) fn finish<B: Body>(&mut self, number: u64, pages: &mut Pages<B>) -> bool {
        let Some(entry) = self.entry(number) else { return false };
        let was = std::mem::replace(&mut entry.state, EntryState::Done);
        let page = entry.event.page;
        self.parking -= usize::from(was.is_for_parking());
        self.suspects.remove(&number);
        self.forget_done();
        was != EntryState::Done && pages.event_done(page)
    }

    /// An event was published as a parked one, which it may be read as too: by a lane that came from behind it.
    pub(super) fn published_apart<B: Body>(&mut self, event: EventRef, still_to_come: bool, pages: &mut Pages<B>) {
        let place = |event: EventRef| pages.body(event.page).and_then(|body| body.place(event.index));
        let Some(published @ (_, position)) = place(event) else { return };
        let read = self.entries.iter().position(|entry| place(entry.event) == Some(published));
        if let Some(at) = read {
            self.finish(self.first + at as u64, pages);
        } else if still_to_come {
            self.ahead.insert(position);
        }
    }

    /// Everything that was done before it is read has been read.
    pub(super) fn caught_up(&mut self) {
        self.ahead.clear();
    }

    fn forget_done(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.state == EntryState::Done) {
            self.entries.pop_front();
            self.first += 1;
        }
    }

    /// An event waits to be sent again.
    pub(super) fn wait_again(&mut self, slot: Slot) {
        match slot {
            Slot::Entry(number) => {
                if let Some(entry) = self.entry(number) {
                    let was = std::mem::replace(&mut entry.state, EntryState::Waiting);
                    self.parking -= usize::from(was.is_for_parking());
                    self.unsent = self.unsent.min(number);
                }
            }
            Slot::Redrive(number) => {
                if let Some(redrive) = self.redrives.get(number) {
                    redrive.state = RedriveState::Waiting;
                }
            }
        }
    }

    /// An event was refused: it will be parked when everything is reported.
    pub(super) fn refuse(&mut self, slot: Slot) {
        match slot {
            Slot::Entry(number) => {
                if let Some(entry) = self.entry(number) {
                    entry.state = EntryState::Refused;
                    self.parking += 1;
                    self.suspects.remove(&number);
                }
            }
            Slot::Redrive(number) => {
                if let Some(redrive) = self.redrives.get(number) {
                    redrive.state = RedriveState::Refused;
                }
            }
        }
    }

    /// A key is no longer blocked: what was to be parked behind it is sent instead. Unless another event of it was refused
    /// in the meantime, and will block it again.
    pub(super) fn unblock<B: Body>(&mut self, hash: u64, key: &str, pages: &Pages<B>) {
        let refused = |entry: &Entry| {
            entry.state == EntryState::Refused && entry.hash == hash && pages.lane_key(entry.event) == key
        };
        if self.entries.iter().any(refused) {
            return;
        }
        self.blocked.remove(hash, key);
        for entry in &mut self.entries {
            if entry.state == EntryState::Behind && entry.hash == hash && pages.lane_key(entry.event) == key {
                entry.state = EntryState::Waiting;
                self.parking -= 1;
            }
        }
        self.look_again();
    }

    /// Entries in front may be waiting again.
    pub(super) fn look_again(&mut self) {
        self.unsent = self.first;
    }

    /// Nothing is under way, neither with the publisher nor with the log.
    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight == 0 && self.broken.is_none() && self.parking == 0 && self.redrives.is_quiet()
    }

    /// Drops all events of a lane that is quiet; pages count them as done. It will be read again from the page of its
    /// oldest undone event on, and what is done of that is remembered.
    pub(super) fn forget<B: Body>(&mut self, lane: Lane, pages: &mut Pages<B>) {
        self.redrives.drop_waiting(None, pages);
        self.suspects.clear();
        if let Some(oldest) = self.entries.front().map(|entry| entry.event) {
            let before = (0..oldest.index).filter_map(|index| pages.body(oldest.page)?.place(index));
            self.ahead.extend(before.filter(|(of, _)| *of == lane).map(|(_, position)| position));
        }
        self.first += self.entries.len() as u64;
        for Entry { event, state, .. } in self.entries.drain(..) {
            if state != EntryState::Done {
                pages.event_done(event.page);
            } else if let Some((_, position)) = pages.body(event.page).and_then(|body| body.place(event.index)) {
                self.ahead.insert(position);
            }
        }
        self.look_again();
    }

    /// The lane of another member, should it come back: numbers are not used again.
    pub(super) fn begin_anew(&mut self) {
        *self = Self { first: self.first, unsent: self.first, ..Self::default() };
    }
}

impl Batch {
    fn new(number: u64, numbers: Vec<u64>, redriven: bool, isolated: bool) -> Self {
        Self { number, redriven, isolated, unreported: numbers.len(), numbers }
    }
}

impl EntryState {
    fn is_for_parking(self) -> bool {
        matches!(self, Self::Refused | Self::Behind | Self::Parking)
    }
}
