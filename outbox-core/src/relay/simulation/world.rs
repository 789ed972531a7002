//! All that is: a log, a broker, relays, and what may happen to them.

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Flaw, Rules,
    broker::{Broker, Fate, Stream},
    invariant::{Checked, Invariant},
    log::Log,
    tenure::{Kind, Membership, Tenure, Then},
};
use crate::event::LaneCount;

#[derive(Debug, Clone, Hash)]
pub(super) struct World {
    pub(super) terms: Terms,
    pub(super) now: Instant,
    pub(super) log: Log,
    pub(super) broker: Broker,
    pub(super) relays: Vec<Relay>,
    /// What relays that are gone had handed over.
    pub(super) strays: Vec<Stream>,
    next_member: u32,
}

/// A process of which it is certain that it is started again, or its absence.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Relay {
    /// While the process runs.
    pub(super) member: Option<u32>,
    pub(super) tenure: Option<Tenure>,
    /// It begins nothing: its own clock says that its lease is over.
    pub(super) rests: bool,
    /// Its process stands still.
    pub(super) frozen: bool,
}

/// What does not change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) lanes: LaneCount,
    pub(super) rules: Rules,
    pub(super) lease: Duration,
    /// Events of a read, at most.
    pub(super) page: usize,
    /// Parked events of a call.
    pub(super) due: usize,
}

impl Hash for Terms {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Append {
        lane: u8,
        key: u8,
        poison: bool,
    },
    /// A process starts and joins, or joins again.
    Join(usize),
    /// A relay joins, and does not hear of it.
    JoinInVain(usize),
    /// Somebody joins for so long, does nothing and is gone.
    Guest(Duration),
    Stop(usize),
    Kill(usize),
    /// The lease of a member ends by the clock of the log.
    Expire(u32),
    /// It is time for a relay to renew its lease.
    Renew(usize),
    /// The log does what a call asks for.
    Land(usize, Kind),
    /// A relay hears of it.
    Answer(usize, Kind),
    /// A call fails that did not reach the log, or whose answer did not reach the relay.
    Fail(usize, Kind),
    Lose(usize, Kind),
    /// The broker deals with what comes next in a lane. `others`: what is aborted after a failure is of any key.
    Settle {
        relay: usize,
        lane: u8,
        fate: Fate,
        others: bool,
    },
    Stray {
        stream: usize,
        written: bool,
    },
    Heal,
    Redrive,
    Discard(u64),
    /// Time passes.
    Wait(Duration),
}

impl World {
    pub(super) fn new(terms: Terms, relays: usize, flaw: Option<Flaw>, now: Instant) -> Self {
        Self {
            terms,
            now,
            log: Log::new(terms.lanes.get(), flaw),
            broker: Broker::new(flaw),
            relays: vec![Relay::default(); relays],
            strays: Vec::new(),
            next_member: 0,
        }
    }

    pub(super) fn apply(&mut self, action: Action) -> Checked {
        match action {
            Action::Append { lane, key, poison } => {
                let event = self.log.append(lane, key);
                if poison {
                    self.broker.poison(event.position);
                }
            }
            Action::Join(relay) => self.join(relay),
            Action::JoinInVain(relay) => {
                let member = self.member(relay);
                self.log.join(member, self.terms.lease, self.now);
            }
            Action::Guest(lease) => {
                self.next_member += 1;
                self.log.join(self.next_member, lease, self.now);
            }
            Action::Stop(relay) => {
                if let Some(tenure) = &mut self.relays[relay].tenure {
                    tenure.stops = true;
                } else {
                    self.relays[relay].member = None;
                }
            }
            Action::Kill(relay) => {
                self.end(relay)?;
                self.relays[relay] = Relay::default();
            }
            Action::Expire(member) => self.log.expire(member, self.now),
            Action::Renew(relay) => {
                if let Some(tenure) = &mut self.relays[relay].tenure {
                    tenure.renews = true;
                }
            }
            Action::Land(relay, kind) => self.land(relay, kind)?,
            Action::Answer(relay, kind) => {
                self.land(relay, kind)?;
                let (flaw, now) = (self.log.flaw, self.now);
                let then = self.relays[relay].tenure.as_mut().map(|tenure| tenure.answer(kind, flaw, now));
                self.follow(relay, then)?;
            }
            Action::Fail(relay, kind) => self.fail(relay, kind)?,
            Action::Lose(relay, kind) => {
                self.land(relay, kind)?;
                self.fail(relay, kind)?;
            }
            Action::Settle { relay, lane, fate, others } => self.settle(relay, lane, fate, others)?,
            Action::Stray { stream, written } => {
                let Self { strays, broker, log, .. } = self;
                strays[stream].stray(written, broker, &log.events, &log.parked)?;
                if strays[stream].is_idle() {
                    strays.swap_remove(stream);
                }
            }
            Action::Heal => self.broker.heal(),
            Action::Redrive => self.log.parked.redrive_all(),
            Action::Discard(position) => self.log.parked.discard(position),
            Action::Wait(time) => self.now += time,
        }
        self.begin()
    }

    /// Every relay begins what it can.
    fn begin(&mut self) -> Checked {
        let Self { relays, log, strays, now, .. } = self;
        for relay in relays {
            if let Some(tenure) = relay.tenure.as_mut().filter(|_| !relay.frozen) {
                tenure.begin(!relay.rests, log, *now)?;
                strays.extend(tenure.dropped.drain(..).filter(|stream| !stream.is_idle()));
            }
        }
        Ok(())
    }

    fn member(&mut self, relay: usize) -> u32 {
        let next = &mut self.next_member;
        *self.relays[relay].member.get_or_insert_with(|| {
            *next += 1;
            *next
        })
    }

    fn join(&mut self, relay: usize) {
        let member = self.member(relay);
        let (fence, gained) = self.log.join(member, self.terms.lease, self.now);
        self.relays[relay].rests = false;
        self.relays[relay].tenure = Some(Tenure::new(fence, gained, &self.terms, fence.epoch));
    }

    fn land(&mut self, relay: usize, kind: Kind) -> Checked {
        let Self { relays, log, broker, terms, now, .. } = self;
        let Some(tenure) = &mut relays[relay].tenure else { return Ok(()) };
        let landed_before = tenure.has_landed(kind);
        tenure.land(kind, log, broker, terms, *now)?;
        // Whoever takes these lanes begins where they were given back, and repeats what was done beyond.
        if kind == Kind::Membership
            && !landed_before
            && let Some(call) = &tenure.membership
            && let (Membership::Release(tracks), Some(Ok(_))) = (&call.asked, &call.landed)
        {
            broker.allowed += tenure.given_up(crate::log::lanes_of(tracks), log);
        }
        Ok(())
    }

    fn fail(&mut self, relay: usize, kind: Kind) -> Checked {
        let now = self.now;
        let then = self.relays[relay].tenure.as_mut().map(|tenure| tenure.failed(kind, now));
        self.follow(relay, then)
    }

    fn follow(&mut self, relay: usize, then: Option<Then>) -> Checked {
        match then {
            None | Some(Then::GoesOn) => Ok(()),
            Some(Then::Fenced) => {
                let stops = self.relays[relay].tenure.as_ref().is_some_and(|tenure| tenure.stops);
                self.end(relay)?;
                if stops {
                    self.relays[relay] = Relay::default();
                }
                Ok(())
            }
            Some(Then::Left) => {
                self.end(relay)?;
                self.relays[relay] = Relay::default();
                Ok(())
            }
        }
    }

    /// A relay's time of membership is over for it.
    fn end(&mut self, relay: usize) -> Checked {
        let Some(tenure) = self.relays[relay].tenure.take() else { return Ok(()) };
        let (events, parked) = tenure.exposed(&self.log);
        let bound = tenure.bound(&self.terms);
        Invariant::DuplicatesAreBounded
            .holds(events <= bound, || format!("{events} events may come again, {bound} at most"))?;
        self.broker.allowed += events + parked;
        self.strays.extend(tenure.streams.into_values().filter(|stream| !stream.is_idle()));
        Ok(())
    }

    fn settle(&mut self, relay: usize, lane: u8, fate: Fate, others: bool) -> Checked {
        let Self { relays, broker, log, terms, now, .. } = self;
        let Some(tenure) = &mut relays[relay].tenure else { return Ok(()) };
        let Some(stream) = tenure.streams.get_mut(&lane) else { return Ok(()) };
        let order = (terms.rules.keeps_order_after_failure, others);
        for settled in stream.settle(fate, order, broker, &log.events, &log.parked)? {
            tenure.settled(lane, settled, log, *now);
        }
        Ok(())
    }

    pub(super) fn tenures(&self) -> impl Iterator<Item = (usize, &Tenure)> {
        self.relays.iter().enumerate().filter_map(|(n, relay)| Some((n, relay.tenure.as_ref()?)))
    }

    /// Members whose process is gone, and whose lease still runs.
    pub(super) fn abandoned(&self) -> Vec<u32> {
        let runs = |member: &u32| self.relays.iter().any(|relay| relay.member == Some(*member));
        self.log.members().filter(|member| !runs(member) && self.log.is_live(*member, self.now)).collect()
    }
}
