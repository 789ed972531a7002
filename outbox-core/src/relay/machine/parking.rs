//! What the log has to be told and asked about parked events: one call at a time, in an order that keeps keys in order.

use std::collections::{BTreeSet, VecDeque};

use tokio::time::Instant;

use super::{
    Machine,
    guard::Guard,
    pages::{Body, EventRef},
    queue::{EntryState, Slot},
    redrive::{Redrive, RedriveState},
    with,
};
use crate::{
    event::{Lane, LaneSet},
    log::{ParkFailure, Parked, Redriven},
};

/// The most events of one call: they are copied in one transaction, which other writers of a SQLite file wait for.
const CALL: usize = 200;
/// The most times of retries that are remembered; the log knows them all.
const REMEMBERED: usize = 1_000;

/// A call to the log about parked events. It is under way until it is answered or [`Machine::parking_failed`].
#[derive(Debug, PartialEq, Eq)]
pub(in crate::relay) enum ParkingCall {
    /// Which keys are blocked: [`Machine::keys_known`].
    Keys,
    /// Set these aside: [`Machine::parked`].
    Park(Vec<ParkItem>),
    /// These were published: [`Machine::recorded`].
    Record(Vec<RecordItem>),
    /// What is to be published again: [`Machine::due`].
    Due,
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::relay) struct ParkItem {
    pub(in crate::relay) lane: Lane,
    pub(in crate::relay) event: EventRef,
    pub(in crate::relay) failure: Option<ParkFailure>,
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::relay) struct RecordItem {
    pub(in crate::relay) lane: Lane,
    pub(in crate::relay) event: EventRef,
    pub(in crate::relay) key: Box<str>,
}

/// A parked event to publish now.
#[derive(Debug)]
pub(in crate::relay) struct DueEvent {
    pub(in crate::relay) lane: Lane,
    pub(in crate::relay) hash: u64,
    pub(in crate::relay) key: Box<str>,
    /// How often it was tried.
    pub(in crate::relay) attempts: u32,
}

#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Parking {
    /// Lanes whose blocked keys are not known yet: nothing of them is read or sent.
    pub(super) unknown: LaneSet,
    pub(super) refusals: VecDeque<Refusal>,
    /// Entries of blocked keys. One whose state says otherwise is passed over.
    pub(super) behind: VecDeque<(Lane, u64)>,
    pub(super) republished: VecDeque<(Lane, u64)>,
    due_wanted: bool,
    retries: BTreeSet<Instant>,
    under_way: Option<UnderWay>,
    pub(super) parked: u64,
    pub(super) redriven: u64,
}

/// An event that was refused.
#[derive(Debug, Clone, Hash)]
pub(super) struct Refusal {
    pub(super) lane: Lane,
    pub(super) slot: Slot,
    pub(super) attempts: u32,
    pub(super) reason: Box<str>,
}

#[derive(Debug, Clone, Hash)]
enum UnderWay {
    Keys(LaneSet),
    Refusals(Vec<(Refusal, Option<std::time::Duration>)>),
    Behind(Vec<(Lane, u64)>),
    Record(Vec<(Lane, u64)>),
    Due,
}

impl<B: Body> Machine<B> {
    /// The next call about parked events, unless one is under way. `working`: new work may be begun.
    pub(in crate::relay) fn next_parking(&mut self, working: bool, now: Instant) -> Option<ParkingCall> {
        if self.parking.under_way.is_some() {
            return None;
        }
        let (call, under_way) = self.parking_call(working, now)?;
        self.parking.under_way = Some(under_way);
        Some(call)
    }

    fn parking_call(&mut self, working: bool, now: Instant) -> Option<(ParkingCall, UnderWay)> {
        let unknown = self.parking.unknown;
        if working && !unknown.is_empty() {
            return Some((ParkingCall::Keys, UnderWay::Keys(unknown)));
        }
        // Failures before all else, and alone: an event is parked behind another one only when that one is parked.
        if !self.parking.refusals.is_empty() {
            return Some(self.park_refusals());
        }
        if !self.parking.republished.is_empty() {
            return Some(self.record_republished());
        }
        if let Some(call) = self.park_behind() {
            return Some(call);
        }
        while self.parking.retries.first().is_some_and(|at| *at <= now) {
            self.parking.retries.pop_first();
            self.parking.due_wanted = true;
        }
        if working && self.parking.due_wanted && !self.lanes().is_empty() {
            self.parking.due_wanted = false;
            return Some((ParkingCall::Due, UnderWay::Due));
        }
        None
    }

    fn park_refusals(&mut self) -> (ParkingCall, UnderWay) {
        let count = self.parking.refusals.len().min(CALL);
        let (mut items, mut under_way) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for refusal in self.parking.refusals.drain(..count) {
            let queue = &mut self.lanes[usize::from(refusal.lane.get())];
            let event = match refusal.slot {
                Slot::Entry(number) => queue.entry(number).map(|entry| entry.event),
                Slot::Redrive(number) => queue.redrives.get(number).map(|redrive| redrive.event),
            };
            let Some(event) = event else { continue };
            let retry_in = self.rules.retry.retry_in(refusal.attempts, &mut self.random);
            let failure = ParkFailure { reason: refusal.reason.clone().into(), attempts: refusal.attempts, retry_in };
            items.push(ParkItem { lane: refusal.lane, event, failure: Some(failure) });
            under_way.push((refusal, retry_in));
        }
        (ParkingCall::Park(items), UnderWay::Refusals(under_way))
    }

    fn record_republished(&mut self) -> (ParkingCall, UnderWay) {
        let count = self.parking.republished.len().min(CALL);
        let (mut items, mut under_way) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (lane, number) in self.parking.republished.drain(..count) {
            let Some(redrive) = self.lanes[usize::from(lane.get())].redrives.get(number) else { continue };
            items.push(RecordItem { lane, event: redrive.event, key: redrive.key.clone() });
            under_way.push((lane, number));
        }
        (ParkingCall::Record(items), UnderWay::Record(under_way))
    }

    fn park_behind(&mut self) -> Option<(ParkingCall, UnderWay)> {
        let (mut items, mut under_way) = (Vec::new(), Vec::new());
        while items.len() < CALL
            && let Some((lane, number)) = self.parking.behind.pop_front()
        {
            let entry = self.lanes[usize::from(lane.get())].entry(number);
            if let Some(entry) = entry.filter(|entry| entry.state == EntryState::Behind) {
                entry.state = EntryState::Parking;
                items.push(ParkItem { lane, event: entry.event, failure: None });
                under_way.push((lane, number));
            }
        }
        (!items.is_empty()).then_some((ParkingCall::Park(items), UnderWay::Behind(under_way)))
    }

    /// The call under way failed: it is made again.
    pub(in crate::relay) fn parking_failed(&mut self) {
        match self.parking.under_way.take() {
            None | Some(UnderWay::Keys(_)) => {}
            Some(UnderWay::Refusals(refusals)) => {
                for (refusal, _) in refusals.into_iter().rev() {
                    self.parking.refusals.push_front(refusal);
                }
            }
            Some(UnderWay::Behind(behind)) => {
                for (lane, number) in behind.into_iter().rev() {
                    if let Some(entry) = self.lanes[usize::from(lane.get())].entry(number) {
                        entry.state = EntryState::Behind;
                    }
                    self.parking.behind.push_front((lane, number));
                }
            }
            Some(UnderWay::Record(republished)) => {
                for item in republished.into_iter().rev() {
                    self.parking.republished.push_front(item);
                }
            }
            Some(UnderWay::Due) => self.parking.due_wanted = true,
        }
    }

    /// The blocked keys of all lanes, each with its lane and hash.
    pub(in crate::relay) fn keys_known<'k>(&mut self, keys: impl IntoIterator<Item = (Lane, u64, &'k str)>) {
        let Some(UnderWay::Keys(asked)) = self.parking.under_way.take() else { return };
        for (lane, hash, key) in keys {
            // What is known of other lanes is newer.
            if asked.contains(lane) {
                self.lanes[usize::from(lane.get())].blocked.insert(hash, key);
            }
        }
        self.parking.unknown = self.parking.unknown.difference(asked);
        self.join_tracks();
    }

    /// The answers to [`ParkingCall::Park`], in its order.
    pub(in crate::relay) fn parked(&mut self, answers: &[Parked], now: Instant) {
        match self.parking.under_way.take() {
            Some(UnderWay::Refusals(refusals)) => {
                for (refusal, retry_in) in refusals {
                    self.refusal_parked(&refusal, retry_in.map(|wait| now + wait));
                }
            }
            Some(UnderWay::Behind(behind)) => {
                for ((lane, number), answer) in behind.into_iter().zip(answers) {
                    self.behind_parked(lane, number, *answer);
                }
            }
            _ => return,
        }
        self.tracks.advance(&mut self.pages, now);
    }

    fn refusal_parked(&mut self, refusal: &Refusal, retry_at: Option<Instant>) {
        let queue = &mut self.lanes[usize::from(refusal.lane.get())];
        match refusal.slot {
            Slot::Entry(number) => {
                self.parking.parked += 1;
                queue.finish(number, &mut self.pages);
            }
            Slot::Redrive(number) => {
                if let Some(redrive) = queue.redrives.get(number) {
                    redrive.settle(&mut self.pages);
                }
                queue.redrives.forget_gone();
                // It may have been asked for again in the meantime.
                self.parking.due_wanted = true;
            }
        }
        if let Some(at) = retry_at
            && self.parking.retries.len() < REMEMBERED
        {
            self.parking.retries.insert(at);
        }
    }

    fn behind_parked(&mut self, lane: Lane, number: u64, answer: Parked) {
        let queue = &mut self.lanes[usize::from(lane.get())];
        match answer {
            Parked::Yes => {
                self.parking.parked += 1;
                queue.finish(number, &mut self.pages);
            }
            Parked::NotBlocked => {
                let entry = queue.entry(number).filter(|entry| entry.state == EntryState::Parking);
                let Some(entry) = entry else { return };
                let (hash, event) = (entry.hash, entry.event);
                queue.wait_again(Slot::Entry(number));
                queue.unblock(hash, &self.pages.lane_key(event), &self.pages);
                self.ready = with(self.ready, lane);
            }
        }
    }

    /// The answers to [`ParkingCall::Record`], in its order.
    pub(in crate::relay) fn recorded(&mut self, answers: &[Redriven], now: Instant) {
        let Some(UnderWay::Record(republished)) = self.parking.under_way.take() else { return };
        self.parking.redriven += republished.len() as u64;
        let mut keys = Vec::with_capacity(republished.len());
        for (&(lane, number), answer) in republished.iter().zip(answers) {
            let queue = &mut self.lanes[usize::from(lane.get())];
            let Some(redrive) = queue.redrives.get(number) else { continue };
            keys.push((lane, redrive.hash, redrive.key.clone(), *answer));
            let event = redrive.event;
            queue.published_apart(event, !self.tracks.has_caught_up(lane), &mut self.pages);
            if let Some(redrive) = queue.redrives.get(number) {
                redrive.settle(&mut self.pages);
            }
        }
        self.tracks.advance(&mut self.pages, now);
        for (lane, hash, key, answer) in keys {
            let queue = &mut self.lanes[usize::from(lane.get())];
            queue.redrives.forget_gone();
            // With more of the key under way the last one decides.
            if queue.redrives.has_key(&key) {
                continue;
            }
            self.parking.due_wanted = true;
            if answer == Redriven::KeyFree {
                queue.unblock(hash, &key, &self.pages);
            }
            self.ready = with(self.ready, lane);
        }
    }

    /// The answer to [`ParkingCall::Due`]: those of each key in order, each with its index in `body`.
    pub(in crate::relay) fn due(&mut self, body: B, events: Vec<DueEvent>) {
        if !matches!(self.parking.under_way.take(), Some(UnderWay::Due)) {
            return;
        }
        let lanes = self.lanes().difference(self.leaving).difference(self.parking.unknown);
        // Never a key of which something is under way: the log does not know yet what becomes of it.
        let has_key = |event: &DueEvent| self.queue(event.lane).redrives.has_key(&event.key);
        let wanted =
            |event: &DueEvent| lanes.contains(event.lane) && !(has_key(event) && Guard::RedrivesAreUnique.stands());
        let chosen: Vec<bool> = events.iter().map(wanted).collect();
        let count = chosen.iter().filter(|chosen| **chosen).count();
        if count == 0 {
            return;
        }
        let page = self.pages.insert(body, count);
        for (index, (DueEvent { lane, hash, key, attempts }, _)) in
            events.into_iter().zip(chosen).enumerate().filter(|(_, (_, chosen))| *chosen)
        {
            let event = EventRef { page, index: index as u32 };
            let queue = &mut self.lanes[usize::from(lane.get())];
            // Known already, unless the key was parked while its answer was lost.
            queue.blocked.insert(hash, &key);
            let isolated = attempts > 0;
            queue.redrives.push(Redrive { event, hash, key, attempts, isolated, state: RedriveState::Waiting });
            self.ready = with(self.ready, lane);
        }
    }

    /// How many parked events are to be published or under way.
    pub(in crate::relay) fn redrives_held(&self) -> usize {
        self.lanes.iter().map(|queue| queue.redrives.len()).sum()
    }

    /// Keys asked for before these lanes came say nothing about them.
    pub(super) fn keys_unknown(&mut self, lanes: LaneSet) {
        self.keys_unwanted(lanes);
        self.parking.unknown = self.parking.unknown.union(lanes);
    }

    /// These lanes go: an answer that is still to come is not about them.
    pub(super) fn keys_unwanted(&mut self, lanes: LaneSet) {
        self.parking.unknown = self.parking.unknown.difference(lanes);
        if let Some(UnderWay::Keys(asked)) = &mut self.parking.under_way {
            *asked = asked.difference(lanes);
        }
    }

    /// Somebody wants parked events to be published again.
    pub(in crate::relay) fn want_due(&mut self) {
        self.parking.due_wanted = true;
    }

    /// When parked events are due by their own times.
    pub(in crate::relay) fn due_at(&self) -> Option<Instant> {
        self.parking.retries.first().copied()
    }

    /// Whether nothing is left that the log has to be told before the member may leave.
    pub(in crate::relay) fn is_settled(&self) -> bool {
        let Parking { refusals, republished, under_way, .. } = &self.parking;
        self.in_flight == 0 && refusals.is_empty() && republished.is_empty() && under_way.is_none()
    }

    /// Events parked and redriven so far, and keys blocked now.
    pub(in crate::relay) fn parking_counts(&self) -> (u64, u64, usize) {
        let blocked = self.lanes.iter().map(|queue| queue.blocked.len()).sum();
        (self.parking.parked, self.parking.redriven, blocked)
    }
}
