//! The relay's decisions, without input or output: what to read, send, park, record and give back, and when to pause.
//!
//! Pages of events come in; batches of one lane go out; outcomes come back. A page is done when all its events are
//! delivered or parked, and the places of lanes follow the runs of done pages at the front of their tracks. The caller
//! carries messages, calls and clocks, so that the same code runs under tokio, under a simulator and under a checker.
//!
//! What happens to one event is decided in its lane's queue ([`queue`], [`redrive`], [`blocked`]); where lanes stand, in
//! [`tracks`]; what the log has to be told, in [`parking`] and [`membership`]; how a stuck lane lets the others pass, in
//! [`lagging`].

mod blocked;
mod guard;
mod lagging;
mod membership;
mod pages;
mod parking;
mod queue;
mod redrive;
mod sending;
mod tracks;

#[cfg(test)]
mod tests;

use std::time::Duration;

use rand::{SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use self::{pages::Pages, parking::Parking, queue::LaneQueue, tracks::TrackPage, tracks::Tracks};
use crate::{
    event::{Lane, LaneCount, LaneSet},
    log::{Cursor, Track},
    retry::{Backoff, RetryPolicy},
};

#[cfg(test)]
pub(super) use self::guard::Guard;
pub(super) use self::{
    blocked::key_hash,
    pages::{Body, EventRef, PageId},
    parking::{DueEvent, ParkItem, ParkingCall, RecordItem},
};

/// Limits and policies of a [`Machine`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Events read and not yet covered by a recorded checkpoint: what may be published again after a crash.
    pub(super) window: usize,
    /// Bytes of those of them that are not done yet, or not all before them.
    pub(super) window_bytes: usize,
    /// Events of one lane handed to the publisher and not yet reported.
    pub(super) lane_in_flight: usize,
    /// Whether the publisher aborts what follows a failure; without it one event per key is in flight.
    pub(super) keeps_order_after_failure: bool,
    /// Waits of a lane after failures that are no event's own.
    pub(super) backoff: Backoff,
    /// What becomes of events that are refused.
    pub(super) retry: RetryPolicy,
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
    /// Equal for events of one key, see [`key_hash`]. A collision only makes them wait for each other.
    pub(super) hash: u64,
    pub(super) position: u64,
    pub(super) bytes: usize,
}

/// What a read found.
#[derive(Debug)]
pub(super) struct Found<B> {
    pub(super) body: B,
    pub(super) next: Cursor,
    pub(super) caught_up: bool,
}

/// Events of one lane to hand to the publisher, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Send {
    pub(super) lane: Lane,
    pub(super) batch: u64,
    pub(super) events: Vec<EventRef>,
    /// The lane failed before: its broken stream has to be replaced first.
    pub(super) reopen: bool,
    /// The one event was refused before: it goes through an isolated stream, with nothing else of its lane under way.
    pub(super) isolated: bool,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    Delivered,
    /// Not its own fault.
    Failed,
    /// Refused together with others: one of them is at fault.
    Suspect,
    /// The event itself can never be sent as it is; the reason is for people.
    Refused(Box<str>),
    Aborted,
}

/// What is to be done of a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneCounts {
    pub(super) waiting: usize,
    pub(super) in_flight: usize,
    pub(super) blocked_keys: usize,
    pub(super) failures: u32,
}

/// A checkpoint to record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Due {
    /// Each lane in exactly one track, no two of them with the same cursor.
    pub(super) tracks: Vec<Track>,
    /// The lowest position that all lanes have passed, of those that passed an event.
    pub(super) position: u64,
    events: usize,
}

/// The state of a member of a consumer. `B` is what the caller keeps of a page.
#[derive(Debug, Clone)]
pub(super) struct Machine<B> {
    rules: Rules,
    pages: Pages<B>,
    tracks: Tracks,
    lanes: Vec<LaneQueue>,
    /// Lanes that may have something to send now.
    ready: LaneSet,
    /// Lanes to give back when they are quiet.
    leaving: LaneSet,
    /// What is being given back.
    releasing: Vec<tracks::Place>,
    parking: Parking,
    in_flight: usize,
    next_batch: u64,
    random: SmallRng,
}

impl<B: Body> Machine<B> {
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        Self::with_lanes(LaneCount::default(), rules, seed)
    }

    /// For a log that has no more than these lanes.
    pub(super) fn with_lanes(lanes: LaneCount, rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            pages: Pages::default(),
            tracks: Tracks::default(),
            lanes: (0..lanes.get()).map(|_| LaneQueue::default()).collect(),
            ready: LaneSet::EMPTY,
            leaving: LaneSet::EMPTY,
            releasing: Vec::new(),
            parking: Parking::default(),
            in_flight: 0,
            next_batch: 0,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// What to read now: the tracks that have not reached the end, or `all` of them. None while there is no room.
    pub(super) fn reads(&mut self, all: bool, now: Instant) -> Vec<Track> {
        self.let_others_pass(now);
        let asked = self.tracks.list.iter().filter(|track| (all || !track.caught_up) && self.may_read(track, now));
        asked.map(|track| Track { cursor: track.read.clone(), lanes: track.lanes }).collect()
    }

    /// Whether [`Machine::reads`] of all tracks would yield any.
    pub(super) fn can_read(&self, now: Instant) -> bool {
        self.tracks.list.iter().any(|track| self.may_read(track, now))
    }

    /// Takes in what a read of this track found, whose events are `arrivals`. Returns false when the track is no longer
    /// what was asked for, and the page was left out.
    pub(super) fn page(
        &mut self,
        asked: &Track,
        found: Found<B>,
        arrivals: impl IntoIterator<Item = Arrival>,
        now: Instant,
    ) -> bool {
        // Lanes that left and came again since they were asked for may be blocked in ways that are not known yet.
        if !asked.lanes.intersection(self.parking.unknown).is_empty() {
            return false;
        }
        let Some(track) = self.tracks.answered(asked) else { return false };
        track.caught_up = found.caught_up;
        let lanes = track.lanes;
        let have_caught_up = if found.caught_up { lanes } else { LaneSet::EMPTY };
        if found.next == track.read {
            self.caught_up(have_caught_up);
            return true;
        }
        // How many are to be done is not known before they were seen.
        let id = self.pages.insert(found.body, 0);
        let (mut events, mut undone, mut bytes, mut highest) = (0, 0, 0, None);
        for (index, arrival) in arrivals.into_iter().enumerate() {
            if !track.lanes.contains(arrival.lane) {
                continue;
            }
            let event = EventRef { page: id, index: index as u32 };
            let queue = &mut self.lanes[usize::from(arrival.lane.get())];
            undone += usize::from(queue.push(event, arrival.hash, arrival.position));
            self.ready = with(self.ready, arrival.lane);
            highest = highest.max(Some(arrival.position));
            events += 1;
            bytes += arrival.bytes;
        }
        self.pages.expect(id, undone);
        let position = track.reach(highest);
        track.read_on(TrackPage { id, lanes, next: found.next, position, events, bytes });
        self.tracks.count_read(events, bytes);
        self.tracks.advance(&mut self.pages, now);
        self.caught_up(have_caught_up);
        true
    }

    fn caught_up(&mut self, lanes: LaneSet) {
        for lane in lanes.iter() {
            self.lanes[usize::from(lane.get())].caught_up();
        }
        self.join_tracks();
    }

    /// What the caller keeps of an event's page.
    pub(super) fn body(&self, event: EventRef) -> Option<&B> {
        self.pages.body(event.page)
    }

    /// Takes the places to record now, if a checkpoint is due.
    pub(super) fn take_checkpoint(&mut self, now: Instant) -> Option<Due> {
        let due = self.checkpoint_at()? <= now;
        if due { self.take_last_checkpoint() } else { None }
    }

    /// Takes the newest places that can be recorded, due or not.
    pub(super) fn take_last_checkpoint(&mut self) -> Option<Due> {
        self.tracks.take_checkpoint(&self.releasing)
    }

    /// A checkpoint was recorded.
    pub(super) fn checkpoint_recorded(&mut self, due: &Due) {
        self.tracks.checkpoint_recorded(due);
    }

    /// A checkpoint could not be recorded; a newer one replaces it.
    pub(super) fn return_checkpoint(&mut self, due: &Due, now: Instant) {
        self.tracks.return_checkpoint(due, now);
    }

    /// When the newest places that can be recorded have to be.
    pub(super) fn checkpoint_at(&self) -> Option<Instant> {
        self.tracks.checkpoint_at(&self.rules)
    }

    /// When the first paused lane may send again.
    pub(super) fn resume_at(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(|lane| lane.paused_until).min()
    }

    /// Lets lanes whose pause is over send again.
    pub(super) fn tick(&mut self, now: Instant) {
        for (lane, queue) in LaneSet::all(LaneCount::default()).iter().zip(&mut self.lanes) {
            if queue.paused_until.is_some_and(|until| until <= now) {
                queue.paused_until = None;
                self.ready = with(self.ready, lane);
            }
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn paused(&self) -> LaneSet {
        self.lanes().iter().filter(|lane| self.is_paused(*lane)).collect()
    }

    /// Whether a lane waits after a failure.
    pub(super) fn is_paused(&self, lane: Lane) -> bool {
        let queue = self.queue(lane);
        queue.broken.is_some() || queue.paused_until.is_some()
    }

    /// The lanes of the member, but for those that are being given back.
    pub(super) fn lanes(&self) -> LaneSet {
        self.tracks.lanes()
    }

    pub(super) fn tracks(&self) -> usize {
        self.tracks.list.len()
    }

    /// Each lane with the position up to which it is done.
    pub(super) fn done(&self) -> Vec<(Lane, u64)> {
        self.tracks.done()
    }

    /// Events of a lane that wait to be handed over, failures of it in a row, and its blocked keys.
    pub(super) fn lane_counts(&self, lane: Lane) -> LaneCounts {
        let queue = self.queue(lane);
        LaneCounts {
            waiting: queue.waiting_to_be_sent(),
            in_flight: queue.in_flight,
            blocked_keys: queue.blocked.len(),
            failures: queue.attempts,
        }
    }

    /// The first event of each lane that is not done.
    pub(super) fn oldest(&self) -> impl Iterator<Item = EventRef> {
        self.lanes.iter().filter_map(LaneQueue::oldest)
    }

    fn queue(&self, lane: Lane) -> &LaneQueue {
        &self.lanes[usize::from(lane.get())]
    }

    fn join_tracks(&mut self) {
        let held = self.parking.unknown;
        self.tracks.join_equal(|track| !track.lagging && track.lanes.intersection(held).is_empty());
    }
}

fn with(set: LaneSet, lane: Lane) -> LaneSet {
    set.union(LaneSet::from_iter([lane]))
}
