//! One time of membership of a relay, as the driver does it: everything that can be begun is begun at once, and one call
//! of a kind is under way at a time.

mod landing;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    Ev, Events, Flaw,
    broker::{Broker, Settled, Stream},
    cursor, hash_of,
    invariant::{Checked, Invariant},
    key_of, lane,
    log::{Fence, Fenced, Log, Renewal},
    parked::{Failure, Row},
    position,
    world::Terms,
};
use crate::{
    event::LaneSet,
    log::{Parked, Redriven, Track, lanes_of},
    relay::machine::{Due, DueEvent, EventRef, Found, Machine, ParkingCall, Report},
};

#[derive(Debug, Clone, Hash)]
pub(super) struct Tenure {
    pub(super) fence: Fence,
    pub(super) machine: Machine<Events>,
    pub(super) streams: BTreeMap<u8, Stream>,
    pub(super) read: Option<Call<Vec<Track>, Vec<Page>>>,
    pub(super) membership: Option<Call<Membership, Option<Renewal>>>,
    pub(super) parking: Option<Call<Parking, ParkingAnswer>>,
    /// Whether the next call about the membership renews it.
    pub(super) renews: bool,
    pub(super) stops: bool,
    /// Lanes that it asked the log to take back.
    given_back: LaneSet,
    /// Streams that were replaced. What they had accepted may still be written.
    pub(super) dropped: Vec<Stream>,
    /// What it wrote and has not recorded, and of parked events what it wrote and has not unparked.
    wrote: BTreeSet<u64>,
    wrote_parked: BTreeSet<u64>,
    /// Lanes that let the others pass at some time.
    set_aside: LaneSet,
    /// What it knows to be delivered, of the lanes it has.
    delivered: BTreeSet<u64>,
}

/// A call to the log.
#[derive(Debug, Clone, Hash)]
pub(super) struct Call<C, A> {
    pub(super) asked: C,
    /// The answer, when the log has done it.
    pub(super) landed: Option<Result<A, Fenced>>,
}

pub(super) type Page = (Events, u64, bool);

#[derive(Debug, Clone, Hash)]
pub(super) enum Membership {
    Renew,
    Release(Vec<Track>),
    Checkpoint(Due),
    /// The last checkpoint, and good-bye.
    Leave(Option<Due>),
}

#[derive(Debug, Clone, Hash)]
pub(super) enum Parking {
    Keys,
    Park(Vec<(Ev, Option<Failure>)>),
    Record(Vec<Ev>),
    Due,
}

#[derive(Debug, Clone, Hash)]
pub(super) enum ParkingAnswer {
    Keys(Vec<Ev>),
    Parked(Vec<Parked>),
    Recorded(Vec<Redriven>),
    Due(Vec<Row>),
}

/// The kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Read,
    Membership,
    Parking,
}

/// What becomes of a tenure after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    GoesOn,
    /// It found itself fenced.
    Fenced,
    Left,
}

impl<C, A> Call<C, A> {
    fn new(asked: C) -> Self {
        Self { asked, landed: None }
    }
}

impl Tenure {
    pub(super) fn new(fence: Fence, gained: Vec<Track>, terms: &Terms, seed: u64) -> Self {
        let mut machine = Machine::with_lanes(terms.lanes, terms.rules, seed);
        machine.gain(gained);
        Self {
            fence,
            machine,
            streams: BTreeMap::new(),
            read: None,
            membership: None,
            parking: None,
            renews: false,
            stops: false,
            given_back: LaneSet::EMPTY,
            dropped: Vec::new(),
            wrote: BTreeSet::new(),
            wrote_parked: BTreeSet::new(),
            set_aside: LaneSet::EMPTY,
            delivered: BTreeSet::new(),
        }
    }

    // What the driver does between two answers.

    /// Begins all that can be begun. `works`: new work too.
    pub(super) fn begin(&mut self, works: bool, log: &Log, now: Instant) -> Checked {
        self.machine.tick(now);
        let works = works && !self.stops;
        if works {
            self.send(log, now)?;
        }
        if self.membership.is_none() {
            self.membership = self.next_membership(now)?.map(Call::new);
        }
        if self.parking.is_none() {
            self.parking = self.next_parking(works, now).map(Call::new);
        }
        if self.read.is_none() && works {
            let mut tracks = self.machine.reads(false, now);
            if tracks.is_empty() {
                // A look at what has reached the end is left out where it would find nothing.
                tracks = self.machine.reads(true, now);
                tracks.retain(|track| position(&track.cursor) < log.head());
            }
            self.read = (!tracks.is_empty()).then(|| Call::new(tracks));
            self.set_aside = self.set_aside.union(self.machine.lagging());
        }
        Ok(())
    }

    fn send(&mut self, log: &Log, now: Instant) -> Checked {
        while let Some(send) = self.machine.next_send(now) {
            let events: Vec<Ev> = send.events.iter().filter_map(|event| self.event(*event)).collect();
            let of = send.lane.get();
            let rule = Invariant::NothingIsSentAfterRelease;
            let given_back = self.given_back.contains(send.lane);
            rule.holds(!given_back, || format!("{events:?} of a lane that is given back"))?;
            // A membership that is over has no lanes, and cannot know.
            let owned = log.owned(self.fence);
            let mine = owned.contains(send.lane) || log.owned(self.fence).is_empty();
            rule.holds(mine, || format!("{events:?} of a lane that is another's"))?;
            let again = events.iter().find(|event| self.delivered.contains(&event.position));
            Invariant::DuplicatesAreBounded.holds(again.is_none(), || format!("{again:?} is sent again"))?;

            let alone = Invariant::SuspectsAreSentAlone;
            let stream = self.streams.entry(of).or_default();
            let apart = send.isolated || stream.isolated;
            alone.holds(!apart || stream.is_idle(), || format!("{events:?} beside others of lane {of}"))?;
            alone.holds(!send.isolated || events.len() == 1, || format!("{events:?} in an isolated batch"))?;
            if send.reopen || stream.isolated != send.isolated {
                self.dropped.push(std::mem::replace(stream, Stream::new(send.isolated)));
            }
            stream.push(send.batch, events);
        }
        Ok(())
    }

    fn next_membership(&mut self, now: Instant) -> Checked<Option<Membership>> {
        if std::mem::take(&mut self.renews) {
            return Ok(Some(Membership::Renew));
        }
        if self.stops && self.machine.is_settled() {
            return Ok(Some(Membership::Leave(self.machine.take_last_checkpoint())));
        }
        if !self.stops
            && let Some(tracks) = self.machine.next_release(now)
        {
            let lanes = lanes_of(&tracks);
            let busy = self.streams.iter().find(|(of, stream)| lanes.contains(lane(**of)) && !stream.is_idle());
            let rule = Invariant::NothingIsSentAfterRelease;
            rule.holds(busy.is_none(), || format!("{busy:?} is under way in what is given back"))?;
            let told = match self.parking.as_ref().map(|call| &call.asked) {
                Some(Parking::Park(events)) => events.iter().any(|(event, _)| lanes.contains(lane(event.lane))),
                Some(Parking::Record(events)) => events.iter().any(|event| lanes.contains(lane(event.lane))),
                _ => false,
            };
            rule.holds(!told, || "the log is being told of what is given back".into())?;
            self.given_back = self.given_back.union(lanes);
            return Ok(Some(Membership::Release(tracks)));
        }
        Ok(self.machine.take_checkpoint(now).map(Membership::Checkpoint))
    }

    fn next_parking(&mut self, works: bool, now: Instant) -> Option<Parking> {
        Some(match self.machine.next_parking(works, now)? {
            ParkingCall::Keys => Parking::Keys,
            ParkingCall::Due => Parking::Due,
            ParkingCall::Record(items) => {
                Parking::Record(items.iter().filter_map(|item| self.event(item.event)).collect())
            }
            ParkingCall::Park(items) => {
                let failure =
                    |failed: &crate::log::ParkFailure| Failure { attempts: failed.attempts, retry_in: failed.retry_in };
                let park =
                    items.iter().filter_map(|item| Some((self.event(item.event)?, item.failure.as_ref().map(failure))));
                Parking::Park(park.collect())
            }
        })
    }

    fn event(&self, event: EventRef) -> Option<Ev> {
        self.machine.body(event)?.0.get(event.index as usize).copied()
    }

    // What the log does.

    /// The relay hears of a call that has landed.
    pub(super) fn answer(&mut self, kind: Kind, flaw: Option<Flaw>, now: Instant) -> Then {
        match kind {
            Kind::Read => {
                if let Some(Call { asked, landed: Some(Ok(pages)) }) = self.read.take() {
                    for (track, (body, next, caught_up)) in asked.iter().zip(pages) {
                        let arrivals = body.arrivals();
                        self.machine.page(track, Found { body, next: cursor(next), caught_up }, arrivals, now);
                    }
                }
                Then::GoesOn
            }
            Kind::Membership => match self.membership.take() {
                Some(Call { asked, landed: Some(Ok(answer)) }) => self.membership_answer(asked, answer),
                Some(Call { asked: Membership::Leave(_), .. }) => Then::Left,
                Some(Call { landed: Some(Err(Fenced)), .. }) => Then::Fenced,
                _ => Then::GoesOn,
            },
            Kind::Parking => match self.parking.take() {
                Some(Call { landed: Some(Ok(answer)), .. }) => {
                    self.parking_answer(answer, flaw, now);
                    Then::GoesOn
                }
                Some(Call { landed: Some(Err(Fenced)), .. }) => Then::Fenced,
                _ => Then::GoesOn,
            },
        }
    }

    fn membership_answer(&mut self, asked: Membership, answer: Option<Renewal>) -> Then {
        match (asked, answer) {
            (Membership::Renew, Some(Renewal { gained, owned, surplus, redrive })) => {
                if !self.machine.agrees(owned, &gained) {
                    return Then::Fenced;
                }
                if self.machine.has_released(owned) {
                    self.released();
                }
                let lanes = lanes_of(&gained);
                self.given_back = self.given_back.difference(lanes);
                if !gained.is_empty() {
                    self.machine.gain(gained);
                }
                self.machine.give_back(surplus);
                if redrive {
                    self.machine.want_due();
                }
            }
            (Membership::Release(_), _) => self.released(),
            (Membership::Checkpoint(due), _) => self.machine.checkpoint_recorded(&due),
            (Membership::Leave(_), _) => return Then::Left,
            (Membership::Renew, None) => {}
        }
        Then::GoesOn
    }

    fn released(&mut self) {
        let lanes = self.machine.released();
        self.streams.retain(|of, _| !lanes.contains(lane(*of)));
    }

    fn parking_answer(&mut self, answer: ParkingAnswer, flaw: Option<Flaw>, now: Instant) {
        match answer {
            ParkingAnswer::Parked(answers) if flaw == Some(Flaw::RefusalsToParkAreNotHeard) => {
                self.machine.parked(&vec![Parked::Yes; answers.len()], now);
            }
            ParkingAnswer::Keys(events) => {
                let keys: Vec<_> = events.iter().map(|e| (lane(e.lane), hash_of(*e), key_of(*e))).collect();
                self.machine.keys_known(keys.iter().map(|(lane, hash, key)| (*lane, *hash, &**key)));
            }
            ParkingAnswer::Parked(answers) => self.machine.parked(&answers, now),
            ParkingAnswer::Recorded(answers) => self.machine.recorded(&answers, now),
            ParkingAnswer::Due(rows) => {
                let due = |row: &Row| DueEvent {
                    lane: lane(row.event.lane),
                    hash: hash_of(row.event),
                    key: key_of(row.event).into(),
                    attempts: row.attempts,
                };
                let due = rows.iter().map(due).collect();
                self.machine.due(Events(Arc::new(rows.iter().map(|row| row.event).collect())), due);
            }
        }
    }

    /// The relay hears that a call failed. Whether it landed is another matter.
    pub(super) fn failed(&mut self, kind: Kind, now: Instant) -> Then {
        match kind {
            Kind::Read => self.read = None,
            Kind::Membership => match self.membership.take().map(|call| call.asked) {
                Some(Membership::Renew) => self.renews = true,
                Some(Membership::Checkpoint(due)) => self.machine.return_checkpoint(&due, now),
                Some(Membership::Leave(_)) => return Then::Left,
                Some(Membership::Release(_)) | None => {}
            },
            Kind::Parking => {
                if self.parking.take().is_some() {
                    self.machine.parking_failed();
                }
            }
        }
        Then::GoesOn
    }

    /// The relay hears what became of a message.
    pub(super) fn settled(&mut self, of: u8, settled: Settled, log: &Log, now: Instant) {
        let Settled { event, written, batch, index, report } = settled;
        if written {
            let wrote = if log.parked.knows(event.position) { &mut self.wrote_parked } else { &mut self.wrote };
            wrote.insert(event.position);
        }
        if report == Report::Delivered {
            self.delivered.insert(event.position);
        }
        let report = match (report, log.flaw) {
            (Report::Suspect, Some(Flaw::SuspectsAreBlamed)) => Report::Refused("suspect".into()),
            (Report::Failed, Some(Flaw::OutagesAreBlamed)) => Report::Refused("away".into()),
            (report, _) => report,
        };
        self.machine.reports(lane(of), batch, [(index..index + 1, report)], now);
    }

    // What it leaves.

    /// How many events may come again when it ends now.
    pub(super) fn bound(&self, terms: &Terms) -> usize {
        // One page may exceed the window, and each track of a read has one event at least.
        let window = terms.rules.window + terms.page.max(usize::from(terms.lanes.get()));
        // What was read of a lane that lets the others pass is dropped, and takes no room any more. It comes again only
        // if the relay dies, as far as it had been published: at most a window.
        window * (1 + self.set_aside.len() as usize)
    }

    /// What may come again when it ends now: how many events, and how many parked ones.
    pub(super) fn exposed(&self, log: &Log) -> (usize, usize) {
        let under_way: BTreeSet<u64> = self.streams.values().flat_map(Stream::events).map(|e| e.position).collect();
        let (parked, events): (Vec<u64>, Vec<u64>) =
            under_way.iter().partition(|position| log.parked.knows(**position));
        let with = |wrote: &BTreeSet<u64>, others: Vec<u64>| {
            wrote.iter().copied().chain(others).collect::<BTreeSet<_>>().len()
        };
        (with(&self.wrote, events), with(&self.wrote_parked, parked))
    }

    /// Takes out what may come again of lanes that are given back now.
    pub(super) fn given_up(&mut self, lanes: LaneSet, log: &Log) -> usize {
        let before = self.wrote.len();
        self.wrote.retain(|position| !lanes.contains(lane(log.event(*position).lane)));
        self.delivered.retain(|position| !lanes.contains(lane(log.event(*position).lane)));
        before - self.wrote.len()
    }

    /// Nothing is under way, and nothing waits for its time.
    pub(super) fn is_quiet(&self) -> bool {
        let calls = [Kind::Read, Kind::Membership, Kind::Parking].iter().any(|kind| self.has(*kind));
        !calls
            && self.times().next().is_none()
            && !self.renews
            && !self.stops
            && self.streams.values().all(Stream::is_idle)
    }

    /// When it has something to do of its own accord.
    pub(super) fn times(&self) -> impl Iterator<Item = Instant> {
        let machine = &self.machine;
        [machine.resume_at(), machine.due_at(), machine.checkpoint_at()].into_iter().flatten()
    }

    pub(super) fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Read => self.read.is_some(),
            Kind::Membership => self.membership.is_some(),
            Kind::Parking => self.parking.is_some(),
        }
    }

    pub(super) fn has_landed(&self, kind: Kind) -> bool {
        match kind {
            Kind::Read => self.read.as_ref().is_some_and(|call| call.landed.is_some()),
            Kind::Membership => self.membership.as_ref().is_some_and(|call| call.landed.is_some()),
            Kind::Parking => self.parking.as_ref().is_some_and(|call| call.landed.is_some()),
        }
    }
}
