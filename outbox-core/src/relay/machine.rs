//! The relay's decisions, without input or output: what to send, when to pause, what to checkpoint.
//!
//! Pages of events come in; batches of one lane go out; outcomes come back. A page is done when all its events are
//! delivered, and the checkpoint is the end of the contiguous run of done pages. The caller carries events, messages
//! and clocks; here they are numbers, so that the same code runs under tokio, under a simulator and under a checker.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use crate::{
    event::{Lane, LaneCount, LaneSet},
    log::Cursor,
    retry::Backoff,
};

/// Limits and policies of a [`Machine`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Events read and not yet covered by the contiguous prefix.
    pub(super) window: usize,
    /// Bytes of these events.
    pub(super) window_bytes: usize,
    /// Events of one lane handed to the publisher and not yet reported.
    pub(super) lane_in_flight: usize,
    /// Whether the publisher aborts what follows a failure; without it one event per key is in flight.
    pub(super) keeps_order_after_failure: bool,
    /// Waits of a lane after failures.
    pub(super) backoff: Backoff,
    /// How long a done event may wait for its checkpoint.
    pub(super) checkpoint_every: Duration,
    /// How many done events make a checkpoint due at once.
    pub(super) checkpoint_events: usize,
    /// How long a cursor that moved past no event may wait for its checkpoint.
    pub(super) idle_checkpoint_every: Duration,
}

/// One event of a page, as the machine sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) lane: Lane,
    /// Equal for events of one key; a collision only makes them wait for each other.
    pub(super) key: u64,
    pub(super) position: u64,
    pub(super) bytes: usize,
}

/// Where an event was read: the number of the page and the index in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventRef {
    pub(super) page: u64,
    pub(super) index: u32,
}

/// Events of one lane to hand to the publisher, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Send {
    pub(super) lane: Lane,
    pub(super) batch: u64,
    pub(super) events: Vec<EventRef>,
    /// The lane failed before: its broken stream has to be replaced first.
    pub(super) reopen: bool,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    Delivered,
    Failed,
    Aborted,
}

/// A cursor to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) cursor: Cursor,
    pub(super) position: u64,
    events: usize,
}

#[derive(Debug)]
pub(super) struct Machine {
    rules: Rules,
    pages: VecDeque<PageState>,
    /// The number of the page at the front of `pages`.
    first_page: u64,
    lanes: Vec<LaneState>,
    /// Lanes that may have something to send now.
    ready: LaneSet,
    window_events: usize,
    window_bytes: usize,
    in_flight: usize,
    next_batch: u64,
    done: Option<Done>,
    position: u64,
    random: SmallRng,
}

#[derive(Debug)]
struct PageState {
    next: Cursor,
    position: u64,
    events: usize,
    bytes: usize,
    undelivered: usize,
}

#[derive(Debug)]
struct Done {
    due: Due,
    since: Instant,
}

#[derive(Debug, Default)]
struct LaneState {
    /// Events from the oldest undelivered one on.
    entries: VecDeque<Entry>,
    /// The number of the entry at the front.
    first_entry: u64,
    /// Entries before this number are not waiting, as long as the lane does not fail.
    unsent: u64,
    batches: HashMap<u64, Batch>,
    in_flight: usize,
    failed: bool,
    reopen: bool,
    attempts: u32,
    paused_until: Option<Instant>,
}

/// The entries of a batch, and how many of them were not reported yet.
#[derive(Debug)]
struct Batch {
    numbers: Vec<u64>,
    unreported: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    event: EventRef,
    key: u64,
    state: EntryState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryState {
    Waiting,
    InFlight,
    Delivered,
}

impl Machine {
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            pages: VecDeque::new(),
            first_page: 0,
            lanes: (0..LaneCount::MAX).map(|_| LaneState::default()).collect(),
            ready: LaneSet::EMPTY,
            window_events: 0,
            window_bytes: 0,
            in_flight: 0,
            next_batch: 0,
            done: None,
            position: 0,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// Whether there is room for another page.
    pub(super) fn wants_page(&self) -> bool {
        self.window_events < self.rules.window && self.window_bytes < self.rules.window_bytes
    }

    /// Takes a page in, and returns its number.
    pub(super) fn page(&mut self, arrivals: impl IntoIterator<Item = Arrival>, next: Cursor, now: Instant) -> u64 {
        let page = self.first_page + self.pages.len() as u64;
        let (mut events, mut bytes) = (0, 0);
        for (index, arrival) in arrivals.into_iter().enumerate() {
            let event = EventRef { page, index: index as u32 };
            let lane = &mut self.lanes[usize::from(arrival.lane.get())];
            lane.entries.push_back(Entry { event, key: arrival.key, state: EntryState::Waiting });
            self.ready = with(self.ready, arrival.lane);
            self.position = self.position.max(arrival.position);
            events += 1;
            bytes += arrival.bytes;
        }
        self.window_events += events;
        self.window_bytes += bytes;
        self.pages.push_back(PageState { next, position: self.position, events, bytes, undelivered: events });
        self.advance(now);
        page
    }

    /// The next batch to hand over, or `None` when there is nothing to send now.
    pub(super) fn next_send(&mut self, now: Instant) -> Option<Send> {
        loop {
            let lane = self.ready.iter().next()?;
            match self.send_of(lane, now) {
                Some(send) => return Some(send),
                None => self.ready = without(self.ready, lane),
            }
        }
    }

    fn send_of(&mut self, lane: Lane, now: Instant) -> Option<Send> {
        let state = &mut self.lanes[usize::from(lane.get())];
        if state.failed || state.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        state.paused_until = None;
        let numbers = if self.rules.keeps_order_after_failure {
            state.waiting(self.rules.lane_in_flight.saturating_sub(state.in_flight))
        } else if state.in_flight == 0 {
            state.waiting_one_per_key(self.rules.lane_in_flight)
        } else {
            Vec::new()
        };
        if numbers.is_empty() {
            return None;
        }
        let mut events = Vec::with_capacity(numbers.len());
        for &number in &numbers {
            let entry = &mut state.entries[(number - state.first_entry) as usize];
            entry.state = EntryState::InFlight;
            events.push(entry.event);
        }
        let batch = self.next_batch;
        self.next_batch += 1;
        state.in_flight += events.len();
        self.in_flight += events.len();
        state.batches.insert(batch, Batch { unreported: numbers.len(), numbers });
        Some(Send { lane, batch, events, reopen: std::mem::take(&mut state.reopen) })
    }

    /// Takes the report of the `index`-th event of a batch in.
    pub(super) fn report(&mut self, lane: Lane, batch: u64, index: usize, report: Report, now: Instant) {
        let state = &mut self.lanes[usize::from(lane.get())];
        let Some(reported) = state.batches.get_mut(&batch) else { return };
        let Some(&number) = reported.numbers.get(index) else { return };
        // Below the front: delivered before, so this report repeats an earlier one.
        let Some(offset) = number.checked_sub(state.first_entry) else { return };
        let entry = &mut state.entries[offset as usize];
        if entry.state != EntryState::InFlight {
            return;
        }
        reported.unreported -= 1;
        if reported.unreported == 0 {
            state.batches.remove(&batch);
        }
        state.in_flight -= 1;
        self.in_flight -= 1;
        if report == Report::Delivered {
            entry.state = EntryState::Delivered;
            state.attempts = 0;
            let page = (entry.event.page - self.first_page) as usize;
            self.pages[page].undelivered -= 1;
        } else {
            entry.state = EntryState::Waiting;
            state.failed = true;
        }
        state.forget_delivered();
        if state.failed && state.in_flight == 0 {
            // Only now, with nothing of the lane under way, can it start again without overtaking itself.
            state.paused_until = Some(now + self.rules.backoff.delay(state.attempts, &mut self.random));
            state.attempts = state.attempts.saturating_add(1);
            state.failed = false;
            state.reopen = true;
            state.unsent = state.first_entry;
        }
        self.ready = with(self.ready, lane);
        self.advance(now);
    }

    /// Moves the contiguous prefix over pages that are done.
    fn advance(&mut self, now: Instant) {
        while self.pages.front().is_some_and(|page| page.undelivered == 0) {
            let Some(page) = self.pages.pop_front() else { return };
            self.first_page += 1;
            self.window_events -= page.events;
            self.window_bytes -= page.bytes;
            let (events, since) = match self.done.take() {
                // The clock of a checkpoint runs from the first event it covers.
                Some(done) if done.due.events > 0 || page.events == 0 => (done.due.events, done.since),
                _ => (0, now),
            };
            let due = Due { cursor: page.next, position: page.position, events: events + page.events };
            self.done = Some(Done { due, since });
        }
    }

    /// The number of the oldest page that is still needed.
    pub(super) fn oldest_page(&self) -> u64 {
        self.first_page
    }

    /// Takes the cursor to record now, if one is due.
    pub(super) fn take_checkpoint(&mut self, now: Instant) -> Option<Due> {
        let due = self.checkpoint_at()? <= now;
        if due { self.take_last_checkpoint() } else { None }
    }

    /// Takes the newest cursor that can be recorded, due or not.
    pub(super) fn take_last_checkpoint(&mut self) -> Option<Due> {
        self.done.take().map(|done| done.due)
    }

    /// Gives a cursor back that could not be recorded; a newer one replaces it.
    pub(super) fn return_checkpoint(&mut self, due: Due, now: Instant) {
        match &mut self.done {
            Some(newer) => newer.due.events += due.events,
            None => self.done = Some(Done { due, since: now }),
        }
    }

    /// When the newest cursor that can be recorded has to be.
    pub(super) fn checkpoint_at(&self) -> Option<Instant> {
        let done = self.done.as_ref()?;
        let wait = match done.due.events {
            0 => self.rules.idle_checkpoint_every,
            n if n >= self.rules.checkpoint_events => Duration::ZERO,
            _ => self.rules.checkpoint_every,
        };
        Some(done.since + wait)
    }

    /// When the first paused lane may send again.
    pub(super) fn resume_at(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(|lane| lane.paused_until).min()
    }

    /// Lets lanes whose pause is over send again.
    pub(super) fn tick(&mut self, now: Instant) {
        for n in 0..LaneCount::MAX {
            let paused = self.lanes[usize::from(n)].paused_until;
            if let (Some(until), Some(lane)) = (paused, Lane::new(n))
                && until <= now
            {
                self.ready = with(self.ready, lane);
            }
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn paused(&self) -> LaneSet {
        let paused = |lane: &Lane| {
            let state = &self.lanes[usize::from(lane.get())];
            state.failed || state.paused_until.is_some()
        };
        LaneSet::all(LaneCount::default()).iter().filter(paused).collect()
    }
}

impl LaneState {
    fn waiting(&mut self, limit: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut number = self.unsent.max(self.first_entry);
        while numbers.len() < limit {
            let Some(entry) = self.entries.get((number - self.first_entry) as usize) else { break };
            if entry.state == EntryState::Waiting {
                numbers.push(number);
            }
            number += 1;
        }
        self.unsent = number;
        numbers
    }

    fn waiting_one_per_key(&self, limit: usize) -> Vec<u64> {
        let mut keys = HashSet::new();
        let waiting = self.entries.iter().zip(self.first_entry..).filter(|(e, _)| e.state == EntryState::Waiting);
        waiting.filter(|(e, _)| keys.insert(e.key)).map(|(_, number)| number).take(limit).collect()
    }

    fn forget_delivered(&mut self) {
        while self.entries.front().is_some_and(|e| e.state == EntryState::Delivered) {
            self.entries.pop_front();
            self.first_entry += 1;
        }
    }
}

fn with(set: LaneSet, lane: Lane) -> LaneSet {
    LaneSet::from_mask(set.mask() | 1 << lane.get())
}

fn without(set: LaneSet, lane: Lane) -> LaneSet {
    LaneSet::from_mask(set.mask() & !(1 << lane.get()))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
