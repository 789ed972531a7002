use std::collections::VecDeque;

use outbox_core::{
    event::ReceivedEvent,
    projection::DeadLetter,
    source::{Batch, Partition, RawRecord, SourcePosition, SourceRecord},
};

use uuid::Uuid;

use super::report::Last;

/// Some batches as they are to be applied.
#[derive(Default)]
pub(super) struct Work {
    pub(super) events: Vec<ReceivedEvent>,
    /// Of each event: what it was decoded from.
    raws: Vec<Option<RawRecord>>,
    /// Of each event: which record of the work it is.
    numbers: VecDeque<usize>,
    /// In the order of their records.
    given_up: Vec<GivenUp>,
    /// Where the partition stands behind all of it.
    pub(super) to: Option<SourcePosition>,
    /// A record that has to wait, and with it whatever came behind it.
    pub(super) held: Option<String>,
    /// The records of the batches.
    pub(super) records: usize,
    pub(super) skipped: usize,
    /// Nobody knows which event is at fault: they are tried one by one.
    pub(super) singly: bool,
    /// The event that failed last, and how often it did in a row of its own.
    blamed: Option<(Uuid, u32)>,
    pub(super) last: Option<Last>,
}

/// A dead letter that is not passed over yet.
struct GivenUp {
    /// Which record of the work it is.
    record: usize,
    letter: DeadLetter,
    /// It is in a safe place already.
    stored: bool,
}

/// What becomes of a record that cannot be decoded.
#[derive(Clone, Copy)]
pub(super) enum Undecodable {
    Hold,
    Skip,
    GiveUp,
}

impl Work {
    /// `false`: what follows has to wait.
    pub(super) fn add(&mut self, batch: Batch, undecodable: Undecodable) -> bool {
        let Batch { partition, records, position } = batch;
        let first = self.records;
        self.records += records.len();
        self.events.reserve(records.len());
        self.raws.reserve(records.len());
        self.numbers.reserve(records.len());
        for (number, record) in (first..).zip(records) {
            match record {
                SourceRecord::Event { event, raw } => {
                    self.events.push(event);
                    self.raws.push(raw);
                    self.numbers.push_back(number);
                }
                SourceRecord::Undecodable { reason, raw } => match undecodable {
                    Undecodable::GiveUp => {
                        let letter = DeadLetter::undecodable(&partition, raw, reason);
                        self.given_up.push(GivenUp { record: number, letter, stored: false });
                    }
                    Undecodable::Skip => {
                        let place = raw.place(&partition);
                        tracing::warn!(%partition, place, reason, "an undecodable record was passed over");
                        self.skipped += 1;
                    }
                    Undecodable::Hold => {
                        self.held = Some(format!("{} cannot be decoded: {reason}", raw.place(&partition)));
                        // Between two records of a batch there is no position: the effects are made, the position
                        // stays behind the batch before, and they come again as duplicates.
                        return false;
                    }
                },
            }
        }
        self.last = self.events.last().map(Last::of).or(self.last);
        self.to = Some(position);
        true
    }

    /// Nothing to apply, and the position stays.
    pub(super) fn is_nothing(&self) -> bool {
        self.events.is_empty() && self.given_up.is_empty() && self.to.is_none()
    }

    /// The events of the next step.
    pub(super) fn trial(&self) -> &[ReceivedEvent] {
        &self.events[..self.tried()]
    }

    /// What the events of the next step were decoded from.
    pub(super) fn raws(&self) -> &[Option<RawRecord>] {
        &self.raws[..self.tried()]
    }

    fn tried(&self) -> usize {
        if self.singly { self.events.len().min(1) } else { self.events.len() }
    }

    /// The dead letters that no safe place has yet.
    pub(super) fn not_stored(&self) -> Vec<DeadLetter> {
        self.given_up.iter().filter(|given| !given.stored).map(|given| given.letter.clone()).collect()
    }

    pub(super) fn all_stored(&mut self) {
        self.given_up.iter_mut().for_each(|given| given.stored = true);
    }

    /// The dead letters of the next step. With an event that is tried by itself go those in front of it and no others:
    /// what stands between it and a later one would be below the watermark from then on, as if it had been applied.
    pub(super) fn letters(&self) -> Vec<DeadLetter> {
        let before = self.numbers.front().copied().filter(|_| self.singly).unwrap_or(usize::MAX);
        self.given_up.iter().take_while(|given| given.record < before).map(|given| given.letter.clone()).collect()
    }

    /// The first of the dead letters are passed over.
    pub(super) fn letters_are_done(&mut self, count: usize) {
        self.given_up.drain(..count);
    }

    /// The first event took effect by itself.
    pub(super) fn first_is_done(&mut self) {
        self.events.remove(0);
        self.raws.remove(0);
        self.numbers.pop_front();
        self.singly = !self.events.is_empty();
    }

    /// The event at `index` failed once more. Returns how often it did, whatever others did meanwhile.
    pub(super) fn blame(&mut self, index: usize) -> u32 {
        let Some(id) = self.trial().get(index).map(|received| received.event.id) else { return 0 };
        let before = self.blamed.filter(|(blamed, _)| *blamed == id).map_or(0, |(_, attempts)| attempts);
        self.blamed = Some((id, before + 1));
        before + 1
    }

    /// The event at `index` becomes a dead letter.
    pub(super) fn give_up(&mut self, index: usize, partition: &Partition, reason: String) {
        let event = self.events.remove(index);
        let (raw, record) = (self.raws.remove(index), self.numbers.remove(index).unwrap_or_default());
        let attempts = self.blamed.take().map_or(1, |(_, attempts)| attempts);
        let letter = DeadLetter::rejected(partition, event, raw, reason, attempts);
        let place = self.given_up.partition_point(|given| given.record < record);
        self.given_up.insert(place, GivenUp { record, letter, stored: false });
        self.singly = self.singly && !self.events.is_empty();
    }
}

impl Last {
    fn of(received: &ReceivedEvent) -> Self {
        Self { sequence: received.origin.map(|origin| origin.sequence), created_at: received.event.created_at }
    }
}
