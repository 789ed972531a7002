//! A log and a publisher that do whatever their contracts allow, and notice what may never happen.

mod membership;
mod parking;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::*;
use crate::log::{Parked, Redriven};

pub(super) const LANES: u8 = 4;

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    keeps_order: bool,
    /// The event at index `i` has position `i + 1`.
    log: Vec<Ev>,
    /// What the log knows of the member.
    owned: LaneSet,
    places: [u64; LANES as usize],
    pub(super) parked: BTreeMap<u64, Row>,
    discarded: BTreeSet<u64>,
    requested: HashSet<String>,
    /// Positions that are refused, until somebody heals them.
    poison: HashSet<u64>,
    /// Positions that were refused.
    refused: HashSet<u64>,
    written: HashSet<u64>,
    /// Positions that were reported as delivered while the lane was the member's.
    acknowledged: HashSet<u64>,
    /// Lanes of which nothing gets through.
    pub(super) stuck: LaneSet,
    pub(super) under_way: Vec<Batch>,
    /// Keys of which a stream writes nothing any more.
    broken: HashMap<Lane, HashSet<u8>>,
    read: Option<(Vec<Track>, Option<Vec<Page>>)>,
    parking: Option<(ParkingCall, Vec<Ev>, Option<Answer>)>,
    membership: Option<Membership>,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    event: Ev,
    failed: bool,
    attempts: u32,
    retry_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Batch {
    lane: Lane,
    number: u64,
    events: Vec<Ev>,
    next: usize,
}

/// The events of a track, where to read on, and whether that is the end.
type Page = (Events, u64, bool);

#[derive(Debug, Clone)]
enum Answer {
    Keys(Vec<Ev>),
    Parked(Vec<Parked>),
    Recorded(Vec<Redriven>),
    Due(Vec<Row>),
}

#[derive(Debug)]
pub(super) enum Membership {
    Renew { gain: LaneSet, surplus: u32 },
    Release(Vec<Track>),
    Checkpoint(Due),
}

/// What becomes of a message or a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Good,
    /// Fails without effect.
    Fails,
    /// Has its effect, and fails all the same.
    AnswerLost,
}

impl World {
    pub(super) fn new(now: Instant, keeps_order: bool) -> Self {
        Self {
            now,
            keeps_order,
            log: Vec::new(),
            owned: LaneSet::EMPTY,
            places: [0; LANES as usize],
            parked: BTreeMap::new(),
            discarded: BTreeSet::new(),
            requested: HashSet::new(),
            poison: HashSet::new(),
            refused: HashSet::new(),
            written: HashSet::new(),
            acknowledged: HashSet::new(),
            stuck: LaneSet::EMPTY,
            under_way: Vec::new(),
            broken: HashMap::new(),
            read: None,
            parking: None,
            membership: None,
        }
    }

    pub(super) fn append(&mut self, events: &[(u8, u8, bool)]) {
        for &(lane, key, poison) in events {
            self.log.push((lane, key, self.head() + 1));
            if poison {
                self.poison.insert(self.head());
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.poison.clear();
    }

    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    pub(super) fn everything_is_written(&self) -> bool {
        let gone = |position: &u64| self.written.contains(position) || self.discarded.contains(position);
        self.parked.is_empty() && self.under_way.is_empty() && self.log.iter().all(|(_, _, position)| gone(position))
    }

    pub(super) fn everything_is_written_and_recorded(&self) {
        for &(lane, _, position) in &self.log {
            assert!(self.written.contains(&position) || self.discarded.contains(&position), "{position} is lost");
            assert!(self.places[usize::from(lane)] >= position, "{position} is not covered by a checkpoint");
        }
        assert!(self.parked.is_empty(), "{:?}", self.parked);
    }

    // The publisher.

    pub(super) fn send(&mut self, machine: &mut Machine<Events>) {
        while let Some(send) = machine.next_send(self.now) {
            let event = |e: &EventRef| machine.body(*e).expect("page").0[e.index as usize];
            let events: Vec<Ev> = send.events.iter().map(event).collect();
            assert!(self.owned.contains(send.lane), "sent of a lane that is not the member's");
            for (_, _, position) in &events {
                assert!(!self.acknowledged.contains(position), "{position} is sent again though it was acknowledged");
            }
            if send.reopen {
                assert!(self.under_way.iter().all(|batch| batch.lane != send.lane), "reopened too early");
                self.broken.remove(&send.lane);
            }
            assert!(!self.broken.contains_key(&send.lane), "sent through a broken stream that had time to tell");
            if !self.keeps_order {
                let mut keys = HashSet::new();
                assert!(events.iter().all(|(_, key, _)| keys.insert(*key)), "two of a key under way");
            }
            self.under_way.push(Batch { lane: send.lane, number: send.batch, events, next: 0 });
        }
    }

    /// Reports the next event of a lane's oldest batch. `others`: what fails takes other keys with it.
    pub(super) fn report(&mut self, machine: &mut Machine<Events>, pick: usize, fate: Fate, others: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let wanted = self.under_way[pick % self.under_way.len()].lane;
        let at = self.under_way.iter().position(|batch| batch.lane == wanted).expect("a batch of it");
        let Batch { lane, number, events, next } = &mut self.under_way[at];
        let (lane, batch, index) = (*lane, *number, *next);
        let event @ (_, key, position) = events[index];
        *next += 1;
        if *next == events.len() {
            self.under_way.remove(at);
        }
        let keys = self.broken.entry(lane).or_default();
        let aborted = self.keeps_order && (keys.contains(&key) || others && !keys.is_empty());
        let report = match fate {
            _ if aborted => Report::Aborted,
            _ if self.stuck.contains(lane) => Report::Failed,
            _ if self.poison.contains(&position) => {
                self.refused.insert(position);
                Report::Refused("poison".into())
            }
            Fate::Good => Report::Delivered,
            Fate::Fails | Fate::AnswerLost => Report::Failed,
        };
        if report == Report::Delivered {
            self.acknowledged.insert(position);
            if keys.is_empty() {
                self.broken.remove(&lane);
            }
        } else {
            keys.insert(key);
        }
        if report == Report::Delivered || report == Report::Failed && fate == Fate::AnswerLost {
            self.write(event);
        }
        machine.report(lane, batch, index, report, self.now);
    }

    fn write(&mut self, (lane, key, position): Ev) {
        let earlier = self.log.iter().filter(|e| (e.0, e.1) == (lane, key) && e.2 < position);
        for (_, _, earlier) in earlier {
            let gone = self.written.contains(earlier) || self.discarded.contains(earlier);
            assert!(gone, "{position} overtakes {earlier} of key {lane}/{key}");
        }
        self.written.insert(position);
    }

    // Reading.

    pub(super) fn start_read(&mut self, machine: &mut Machine<Events>, all: bool) {
        if self.read.is_none() {
            let tracks = machine.reads(all, self.now);
            self.read = (!tracks.is_empty()).then_some((tracks, None));
        }
    }

    /// The log looks; the answer is still to come.
    pub(super) fn look(&mut self, limit: usize) {
        let Some((tracks, answer @ None)) = &self.read else { return };
        let _: &Option<_> = answer;
        let pages = tracks.iter().map(|track| {
            let from: u64 = track.cursor.as_text().parse().expect("cursor");
            let mut events = Vec::new();
            let mut next = from;
            for event in &self.log[from as usize..] {
                if events.len() == limit {
                    break;
                }
                if track.lanes.contains(lane(event.0)) {
                    events.push(*event);
                }
                next = event.2;
            }
            (Events(events), next, next == self.head())
        });
        let pages = Some(pages.collect());
        if let Some((_, answer)) = &mut self.read {
            *answer = pages;
        }
    }

    pub(super) fn answer_read(&mut self, machine: &mut Machine<Events>) {
        self.look(7);
        if let Some((tracks, Some(pages))) = self.read.take() {
            for (track, (events, next, caught_up)) in tracks.iter().zip(pages) {
                let arrivals = arrivals(&events.0);
                machine.page(track, Found { body: events, next: cursor(next), caught_up }, arrivals, self.now);
            }
        }
    }
}
