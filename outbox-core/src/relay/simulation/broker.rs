//! Where events go, and the streams that lead there.

use std::collections::{BTreeSet, VecDeque};

use super::{
    Ev, Flaw,
    invariant::{Checked, Invariant},
    parked::ParkedEvents,
};
use crate::relay::machine::Report;

#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Broker {
    pub(super) written: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    poison: BTreeSet<u64>,
    refused_alone: BTreeSet<u64>,
    /// Messages that came more than once, and how many may.
    duplicates: usize,
    pub(super) allowed: usize,
    flaw: Option<Flaw>,
}

/// The messages of a lane on their way.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Stream {
    pub(super) isolated: bool,
    /// Keys of which nothing is written any more.
    broken: BTreeSet<u8>,
    /// Nothing is written any more.
    all_broken: bool,
    batches: VecDeque<Batch>,
}

#[derive(Debug, Clone, Hash)]
struct Batch {
    number: u64,
    events: VecDeque<(usize, Ev)>,
}

/// What the broker does with the next messages of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    /// Takes one, or refuses it when it is poison.
    Good,
    /// Fails with one, whose outcome is unknown.
    Away { written: bool },
    /// Refuses the next `messages` of one batch because of a poison among them.
    RefusesTogether { messages: usize },
}

/// What became of a message.
#[derive(Debug, Clone)]
pub(super) struct Settled {
    pub(super) event: Ev,
    pub(super) written: bool,
    /// Of which batch, where in it, and what the relay hears.
    pub(super) batch: u64,
    pub(super) index: usize,
    pub(super) report: Report,
}

impl Broker {
    pub(super) fn new(flaw: Option<Flaw>) -> Self {
        Self { flaw, ..Self::default() }
    }

    pub(super) fn poison(&mut self, position: u64) {
        self.poison.insert(position);
    }

    pub(super) fn heal(&mut self) {
        self.poison.clear();
    }

    pub(super) fn is_poison(&self, event: Ev) -> bool {
        self.poison.contains(&event.position)
    }

    pub(super) fn is_acknowledged(&self, position: u64) -> bool {
        self.acknowledged.contains(&position)
    }

    pub(super) fn was_refused_alone(&self, position: u64) -> bool {
        self.refused_alone.contains(&position)
    }

    /// To be asked when all memberships that may have caused any are over or up to date.
    pub(super) fn duplicates_are_explained(&self) -> Checked {
        let Self { duplicates, allowed, .. } = self;
        Invariant::DuplicatesAreBounded
            .holds(duplicates <= allowed, || format!("{duplicates} duplicates, and only {allowed} explained"))
    }

    fn write(&mut self, event: Ev, events: &[Ev], parked: &ParkedEvents) -> Checked {
        if !self.written.insert(event.position) {
            self.duplicates += 1;
            return Ok(());
        }
        let mut before = event.before;
        while let Some(earlier) = before.filter(|earlier| parked.is_discarded(*earlier)) {
            before = events[earlier as usize - 1].before;
        }
        match before.filter(|earlier| !self.written.contains(earlier)) {
            None => Ok(()),
            Some(earlier) if parked.holds(earlier) => {
                Invariant::ParkedKeysKeepOrder.broken(format!("{event:?} overtakes {earlier}, which is parked"))
            }
            Some(earlier) => Invariant::FirstDeliveriesAreInOrder.broken(format!("{event:?} overtakes {earlier}")),
        }
    }
}

impl Stream {
    pub(super) fn new(isolated: bool) -> Self {
        Self { isolated, ..Self::default() }
    }

    pub(super) fn push(&mut self, number: u64, events: Vec<Ev>) {
        self.batches.push_back(Batch { number, events: events.into_iter().enumerate().collect() });
    }

    pub(super) fn is_idle(&self) -> bool {
        self.batches.is_empty()
    }

    /// What is under way, in order.
    pub(super) fn events(&self) -> impl Iterator<Item = Ev> {
        self.batches.iter().flat_map(|batch| batch.events.iter().map(|(_, event)| *event))
    }

    /// The next messages that are of one batch.
    pub(super) fn front(&self) -> impl Iterator<Item = Ev> {
        self.batches.front().into_iter().flat_map(|batch| batch.events.iter().map(|(_, event)| *event))
    }

    /// Whether the next message is not written, whatever the broker does.
    pub(super) fn is_broken_for(&self, event: Ev) -> bool {
        self.all_broken || self.broken.contains(&event.key)
    }

    /// Settles the next messages. `keeps_order`: what follows a failure is aborted. `others`: also that of other keys.
    pub(super) fn settle(
        &mut self,
        fate: Fate,
        (keeps_order, others): (bool, bool),
        broker: &mut Broker,
        events: &[Ev],
        parked: &ParkedEvents,
    ) -> Checked<Vec<Settled>> {
        let Some(batch) = self.batches.front_mut() else { return Ok(Vec::new()) };
        let number = batch.number;
        let count =
            if let Fate::RefusesTogether { messages } = fate { messages.clamp(1, batch.events.len()) } else { 1 };
        let chunk: Vec<(usize, Ev)> = batch.events.drain(..count).collect();
        if batch.events.is_empty() {
            self.batches.pop_front();
        }
        let refused = chunk.iter().any(|(_, event)| broker.is_poison(*event));
        let mut settled = Vec::with_capacity(chunk.len());
        for (index, event) in chunk {
            let (position, mut written) = (event.position, false);
            let aborted = keeps_order && self.is_broken_for(event) && broker.flaw != Some(Flaw::NothingIsAborted);
            let report = match fate {
                _ if aborted => Report::Aborted,
                Fate::RefusesTogether { .. } if refused && !self.isolated => Report::Suspect,
                Fate::Away { written: yes } => {
                    if yes && !broker.is_poison(event) {
                        broker.allowed += 1;
                        broker.write(event, events, parked)?;
                        written = true;
                    }
                    Report::Failed
                }
                _ if broker.is_poison(event) => {
                    broker.refused_alone.insert(position);
                    Report::Refused("poison".into())
                }
                _ => {
                    if broker.flaw != Some(Flaw::AcknowledgedIsNotWritten) {
                        broker.write(event, events, parked)?;
                    }
                    broker.acknowledged.insert(position);
                    written = true;
                    Report::Delivered
                }
            };
            if report != Report::Delivered {
                self.broken.insert(event.key);
                self.all_broken |= others;
            }
            settled.push(Settled { event, written, batch: number, index, report });
        }
        Ok(settled)
    }

    /// The next message is written or not, and nobody hears of it.
    pub(super) fn stray(
        &mut self,
        written: bool,
        broker: &mut Broker,
        events: &[Ev],
        parked: &ParkedEvents,
    ) -> Checked {
        let Some(batch) = self.batches.front_mut() else { return Ok(()) };
        let event = batch.events.pop_front().map(|(_, event)| event);
        if batch.events.is_empty() {
            self.batches.pop_front();
        }
        match event {
            Some(event) if written && !self.is_broken_for(event) && !broker.is_poison(event) => {
                broker.write(event, events, parked)
            }
            Some(event) => {
                self.broken.insert(event.key);
                Ok(())
            }
            None => Ok(()),
        }
    }
}
