//! What has to come of every state when faults have ended.

use std::time::Duration;

use super::{
    broker::Fate,
    invariant::{Checked, Invariant},
    tenure::Kind,
    world::{Action, Relay, World},
};

/// How long a round takes. Longer than any pause of the rules used here, so that none lasts.
const ROUND: Duration = Duration::from_millis(120);
/// A run that takes more rounds counts as endless.
const ROUNDS: usize = 3_000;
/// Every so many rounds each relay renews its lease, and learns what is due.
const RENEWED: usize = 3;

impl World {
    /// Runs without further faults until nothing is left to do; then without poison too.
    pub(super) fn come_to_rest(&mut self) -> Checked {
        // Who is a member stays one: leases are no fault.
        self.terms.lease = Duration::from_hours(24);
        for relay in 0..self.relays.len() {
            self.apply(Action::Renew(relay))?;
        }
        self.run_out()?;
        self.is_complete()?;
        self.apply(Action::Heal)?;
        self.apply(Action::Redrive)?;
        self.run_out()?;
        self.is_complete()?;
        let left: Vec<u64> = self.log.parked.positions().collect();
        Invariant::NothingIsLost.holds(left.is_empty(), || format!("{left:?} stay parked"))?;
        for tenure in self.relays.iter().filter_map(|relay| relay.tenure.as_ref()) {
            let (tracks, (_, _, blocked)) = (tenure.machine.tracks(), tenure.machine.parking_counts());
            Invariant::RunsEnd.holds(tracks <= 1, || format!("{tracks} tracks are not read together"))?;
            // It learns of a discard only from the next event of the key.
            let blocked = if self.log.parked.has_discarded() { 0 } else { blocked };
            Invariant::RunsEnd.holds(blocked == 0, || format!("{blocked} keys stay blocked"))?;
        }
        self.broker.duplicates_are_explained()
    }

    fn run_out(&mut self) -> Checked {
        for round in 0..ROUNDS {
            if self.unrest().is_none() {
                return Ok(());
            }
            self.fair_round(round % RENEWED == 0)?;
        }
        Invariant::RunsEnd.holds(false, || format!("no rest, {}", self.unrest().unwrap_or_default()))
    }

    fn fair_round(&mut self, renews: bool) -> Checked {
        while !self.strays.is_empty() {
            self.apply(Action::Stray { stream: 0, written: true })?;
        }
        for member in self.abandoned() {
            self.apply(Action::Expire(member))?;
        }
        if self.relays.iter().all(|relay| relay.member.is_none()) {
            self.apply(Action::Join(0))?;
        }
        for relay in 0..self.relays.len() {
            if self.relays[relay].member.is_none() {
                continue;
            }
            if self.relays[relay].tenure.is_none() {
                self.apply(Action::Join(relay))?;
            }
            self.relays[relay].rests = false;
            // One renewal after the other would keep everything else about the membership waiting.
            let busy = self.relays[relay].tenure.as_ref().is_some_and(|tenure| tenure.has(Kind::Membership));
            if !busy && (renews || self.has_news(relay)) {
                self.apply(Action::Renew(relay))?;
            }
            for kind in [Kind::Membership, Kind::Parking, Kind::Read] {
                if self.relays[relay].tenure.as_ref().is_some_and(|tenure| tenure.has(kind)) {
                    self.apply(Action::Answer(relay, kind))?;
                }
            }
            for lane in 0..self.terms.lanes.get() {
                let mut settled = 0;
                while self.is_sending(relay, lane) {
                    settled += 1;
                    Invariant::RunsEnd.holds(settled < ROUNDS, || format!("lane {lane} is sent again and again"))?;
                    self.apply(Action::Settle { relay, lane, fate: self.as_brokers_do(relay, lane), others: false })?;
                }
            }
        }
        self.apply(Action::Wait(ROUND))
    }

    pub(super) fn is_sending(&self, relay: usize, lane: u8) -> bool {
        let tenure = self.relays[relay].tenure.as_ref();
        tenure.and_then(|tenure| tenure.streams.get(&lane)).is_some_and(|stream| !stream.is_idle())
    }

    /// Brokers refuse batches, not messages.
    fn as_brokers_do(&self, relay: usize, lane: u8) -> Fate {
        let tenure = self.relays[relay].tenure.as_ref();
        let Some(stream) = tenure.and_then(|tenure| tenure.streams.get(&lane)) else { return Fate::Good };
        let messages = stream.front().count();
        let refused = stream.front().any(|event| self.broker.is_poison(event));
        if refused && messages > 1 { Fate::RefusesTogether { messages } } else { Fate::Good }
    }

    /// Whether a renewal would tell this relay anything.
    pub(super) fn has_news(&self, relay: usize) -> bool {
        self.relays[relay].tenure.as_ref().is_some_and(|tenure| self.log.has_news(tenure.fence, self.now))
    }

    /// What is under way or waits for its time.
    fn unrest(&self) -> Option<String> {
        if !self.strays.is_empty() || !self.abandoned().is_empty() {
            return Some("relays that are gone left something".into());
        }
        if self.log.parked.next_due(self.now).is_some() || self.log.parked.is_due(self.now) {
            return Some(format!("parked events are due: {:?}", self.log.parked));
        }
        if self.relays.iter().all(|relay| relay.tenure.is_none()) {
            return Some("nobody runs".into());
        }
        let restless = |n: &usize| match &self.relays[*n] {
            Relay { member, tenure: None, .. } => member.is_some(),
            Relay { tenure: Some(tenure), .. } => !tenure.is_quiet() || self.has_news(*n),
        };
        (0..self.relays.len()).find(restless).map(|n| format!("relay {n}: {:?}", self.relays[n].tenure))
    }

    fn is_complete(&self) -> Checked {
        for event in &self.log.events {
            let position = event.position;
            let settled = self.broker.written.contains(&position) || self.log.parked.knows(position);
            Invariant::NothingIsLost.holds(settled, || format!("{event:?} is lost"))?;
            let covered = self.log.place(event.lane) >= position;
            Invariant::RunsEnd.holds(covered, || format!("{event:?} is not covered by a checkpoint"))?;
        }
        Ok(())
    }
}
