//! Parked events, as a log keeps them.

use super::*;
use crate::log::ParkFailure;

impl World {
    pub(in crate::relay::machine::tests) fn start_parking(&mut self, machine: &mut Machine<Events>) {
        if self.parking.is_none()
            && let Some(call) = machine.next_parking(true, self.now)
        {
            let event = |e: EventRef| machine.body(e).expect("page").0[e.index as usize];
            let events: Vec<Ev> = match &call {
                ParkingCall::Park(items) => items.iter().map(|item| event(item.event)).collect(),
                ParkingCall::Record(items) => items.iter().map(|item| event(item.event)).collect(),
                ParkingCall::Keys | ParkingCall::Due => Vec::new(),
            };
            assert!(events.iter().all(|(l, ..)| self.owned.contains(lane(*l))), "parked of another member's lane");
            self.parking = Some((call, events, None));
        }
    }

    /// The log does what it was asked; the answer is still to come.
    pub(in crate::relay::machine::tests) fn do_parking(&mut self) {
        let Some((call, events, None)) = &self.parking else { return };
        let events = events.clone();
        let answer = match call {
            ParkingCall::Keys => Answer::Keys(self.parked.values().map(|row| row.event).collect()),
            ParkingCall::Park(items) => {
                let failures: Vec<Option<ParkFailure>> = items.iter().map(|item| item.failure.clone()).collect();
                Answer::Parked(events.iter().zip(failures).map(|(event, failure)| self.park(*event, failure)).collect())
            }
            ParkingCall::Record(_) => {
                for (_, _, position) in &events {
                    assert!(self.written.contains(position), "recorded as published, which it is not");
                    self.parked.remove(position);
                }
                let state = |(lane, key, _): &Ev| {
                    if self.is_blocked(*lane, *key) { Redriven::KeyBlocked } else { Redriven::KeyFree }
                };
                Answer::Recorded(events.iter().map(state).collect())
            }
            ParkingCall::Due => Answer::Due(self.due()),
        };
        if let Some((_, _, to_come)) = &mut self.parking {
            *to_come = Some(answer);
        }
    }

    pub(in crate::relay::machine::tests) fn answer_parking(&mut self, machine: &mut Machine<Events>, fate: Fate) {
        if fate != Fate::Fails {
            self.do_parking();
        }
        let Some((_, _, answer)) = self.parking.take() else { return };
        match answer.filter(|_| fate == Fate::Good) {
            None => machine.parking_failed(),
            Some(Answer::Keys(keys)) => {
                let keys: Vec<_> = keys.iter().map(|&(l, key, _)| (lane(l), hash_of(key), key_of(l, key))).collect();
                machine.keys_known(keys.iter().map(|(lane, hash, key)| (*lane, *hash, &**key)));
            }
            Some(Answer::Parked(answers)) => machine.parked(&answers, self.now),
            Some(Answer::Recorded(answers)) => machine.recorded(&answers, self.now),
            Some(Answer::Due(rows)) => {
                let due = |row: &Row| {
                    let (l, key, _) = row.event;
                    DueEvent { lane: lane(l), hash: hash_of(key), key: key_of(l, key).into(), attempts: row.attempts }
                };
                let due = rows.iter().map(due).collect();
                machine.due(Events(rows.into_iter().map(|row| row.event).collect()), due);
            }
        }
    }

    fn is_blocked(&self, lane: u8, key: u8) -> bool {
        self.parked.values().any(|row| (row.event.0, row.event.1) == (lane, key))
    }

    fn park(&mut self, event @ (lane, key, position): Ev, failure: Option<ParkFailure>) -> Parked {
        match failure {
            None if self.parked.contains_key(&position) => {}
            None if !self.is_blocked(lane, key) => return Parked::NotBlocked,
            None => {
                self.parked.insert(position, Row { event, failed: false, attempts: 0, retry_at: None });
            }
            Some(ParkFailure { attempts, retry_in, .. }) => {
                assert!(self.refused.contains(&position), "an innocent is parked");
                self.requested.remove(&key_of(lane, key));
                let retry_at = retry_in.map(|wait| self.now + wait);
                self.parked.insert(position, Row { event, failed: true, attempts, retry_at });
            }
        }
        Parked::Yes
    }

    pub(super) fn due(&self) -> Vec<Row> {
        let mut due: HashMap<(u8, u8), bool> = HashMap::new();
        let mut found = Vec::new();
        for row in self.parked.values().filter(|row| self.owned.contains(lane(row.event.0))) {
            let (lane, key, _) = row.event;
            let is_due = *due.entry((lane, key)).or_insert_with(|| {
                let asked = self.requested.contains(&key_of(lane, key));
                asked || !row.failed || row.retry_at.is_some_and(|at| at <= self.now)
            });
            if is_due && found.len() < 4 {
                found.push(row.clone());
            }
        }
        found
    }

    pub(in crate::relay::machine::tests) fn discard(&mut self, pick: usize) {
        if let Some(&position) = self.parked.keys().nth(pick % self.parked.len().max(1)) {
            self.parked.remove(&position);
            self.discarded.insert(position);
        }
    }

    pub(in crate::relay::machine::tests) fn has_discarded(&self) -> bool {
        !self.discarded.is_empty()
    }

    pub(in crate::relay::machine::tests) fn redrive_all(&mut self) {
        self.requested.extend(self.parked.values().map(|row| key_of(row.event.0, row.event.1)));
    }
}
