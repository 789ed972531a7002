//! The messages that one producer has and has not reported yet.

use std::{ops::Range, sync::Arc};

use super::delivery::Batch;

/// The messages under way, by the number that librdkafka carries for each: its batch's slot, and its index there.
///
/// Reports come one message at a time and fast. So nothing here allocates, compares or wakes for a single message: a
/// batch hears of its delivered messages when all are reported, or when [`Flights::hand_over`] is called.
#[derive(Default)]
pub(crate) struct Flights {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Slots that may have something to hand over.
    touched: Vec<usize>,
    under_way: usize,
}

#[derive(Default)]
struct Slot {
    batch: Option<Arc<Batch>>,
    awaited: Marks,
    /// Reported as delivered, and not handed over.
    delivered: Marks,
    open: usize,
}

const INDEX_BITS: u32 = usize::BITS / 2;

/// Messages of a batch beyond this index have no number.
pub(crate) const MOST: usize = 1 << INDEX_BITS;

impl Flights {
    /// Awaits a report of each of these messages, and returns the number of the batch's first one.
    pub(crate) fn begin(&mut self, batch: &Arc<Batch>, indices: impl Iterator<Item = usize>) -> usize {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[number];
        for index in indices {
            slot.awaited.set(index);
            slot.open += 1;
        }
        self.under_way += slot.open;
        slot.batch = Some(batch.clone());
        number << INDEX_BITS
    }

    /// These messages of the batch that begins with `first` were not queued after all.
    pub(crate) fn withdraw(&mut self, first: usize, indices: &[usize]) {
        for index in indices {
            self.take(first + index);
        }
    }

    /// A message was delivered. If it was the last one awaited of its batch, the batch has taken in all of them and
    /// is returned, so that its owner can be woken.
    pub(crate) fn delivered(&mut self, number: usize) -> Option<Arc<Batch>> {
        let (slot, index) = (number >> INDEX_BITS, number & (MOST - 1));
        let found = self.slots.get_mut(slot)?;
        if !found.awaited.clear(index) {
            return None;
        }
        if found.delivered.is_empty() {
            self.touched.push(slot);
        }
        found.delivered.set(index);
        found.open -= 1;
        self.under_way -= 1;
        if found.open == 0 { self.end(slot) } else { None }
    }

    /// A message is not under way any more: its batch, and its index there.
    pub(crate) fn take(&mut self, number: usize) -> Option<(Arc<Batch>, usize)> {
        let (slot, index) = (number >> INDEX_BITS, number & (MOST - 1));
        let found = self.slots.get_mut(slot)?;
        if !found.awaited.clear(index) {
            return None;
        }
        let batch = found.batch.clone();
        found.open -= 1;
        self.under_way -= 1;
        if found.open == 0 {
            self.end(slot);
        }
        batch.map(|batch| (batch, index))
    }

    /// Tells the batches of the messages delivered so far, and returns those that have news.
    pub(crate) fn hand_over(&mut self) -> Vec<Arc<Batch>> {
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().filter_map(|slot| self.slots.get_mut(slot)?.hand_over()).collect()
    }

    /// Ends what never was reported: each batch with its indices.
    pub(crate) fn abandon(&mut self) -> Vec<(Arc<Batch>, Vec<usize>)> {
        let _whose_owners_hear_of_the_rest_too = self.hand_over();
        self.under_way = 0;
        let left = std::mem::take(&mut self.slots).into_iter();
        left.filter_map(|mut slot| Some((slot.batch.take()?, slot.awaited.drain().flatten().collect()))).collect()
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    fn end(&mut self, slot: usize) -> Option<Arc<Batch>> {
        let ended = &mut self.slots[slot];
        ended.hand_over();
        self.free.push(slot);
        ended.batch.take()
    }
}

impl Slot {
    fn hand_over(&mut self) -> Option<Arc<Batch>> {
        if self.delivered.is_empty() {
            return None;
        }
        let batch = self.batch.clone()?;
        batch.delivered(self.delivered.drain());
        Some(batch)
    }
}

/// A set of indices.
#[derive(Default)]
struct Marks {
    words: Vec<u64>,
    count: usize,
}

impl Marks {
    fn set(&mut self, index: usize) {
        let word = index / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (index % 64);
        self.count += 1;
    }

    /// Whether it was set.
    fn clear(&mut self, index: usize) -> bool {
        let bit = 1 << (index % 64);
        let Some(word) = self.words.get_mut(index / 64).filter(|word| **word & bit != 0) else { return false };
        *word &= !bit;
        self.count -= 1;
        true
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes all out, neighbours together, in order.
    fn drain(&mut self) -> impl Iterator<Item = Range<usize>> {
        self.count = 0;
        let words = &mut self.words;
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = next(words, from, true)?;
            from = next(words, start, false).unwrap_or(words.len() * 64);
            for index in start..from {
                words[index / 64] &= !(1 << (index % 64));
            }
            Some(start..from)
        })
    }
}

/// The first index at or behind `from` that is set, or that is not.
fn next(words: &[u64], from: usize, set: bool) -> Option<usize> {
    let mut word = from / 64;
    let mut bits = words.get(word).map(|w| if set { *w } else { !*w })? & (u64::MAX << (from % 64));
    while bits == 0 {
        word += 1;
        bits = words.get(word).map(|w| if set { *w } else { !*w })?;
    }
    Some(word * 64 + bits.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use outbox_core::publisher::{Delivery, Message, Outcome};

    use super::*;
    use crate::publisher::delivery::KafkaDelivery;

    fn batch(messages: usize) -> Arc<Batch> {
        let message = Message { topic: "t".into(), key: "k".into(), payload: None, headers: Vec::new() };
        Batch::new(vec![message; messages], Arc::default(), None).0
    }

    async fn runs(batch: &Arc<Batch>) -> Vec<Range<usize>> {
        let runs = KafkaDelivery(batch.clone()).next_runs().await;
        runs.into_iter().map(|(run, outcome)| if matches!(outcome, Outcome::Delivered) { run } else { 0..0 }).collect()
    }

    #[test]
    fn marks_come_out_as_runs() {
        let mut marks = Marks::default();
        for index in [0, 1, 2, 5, 62, 63, 64, 65, 191, 192, 300] {
            marks.set(index);
        }
        assert!(marks.clear(1) && !marks.clear(1) && !marks.clear(1_000));
        assert_eq!(marks.drain().collect::<Vec<_>>(), [0..1, 2..3, 5..6, 62..66, 191..193, 300..301]);
        assert!(marks.is_empty());
        assert_eq!(marks.drain().count(), 0);
        (0..128).for_each(|index| marks.set(index));
        assert_eq!(marks.drain().collect::<Vec<_>>(), vec![0..128]);
    }

    #[tokio::test]
    async fn a_batch_hears_of_everything_when_all_is_reported() {
        let (mut flights, batch) = (Flights::default(), batch(100));
        let first = flights.begin(&batch, 0..100);
        for index in (1..100).rev() {
            assert!(flights.delivered(first + index).is_none());
        }
        assert!(flights.delivered(first).is_some_and(|told| Arc::ptr_eq(&told, &batch)));
        assert_eq!(runs(&batch).await, vec![0..100]);
        assert_eq!(flights.under_way(), 0);
        assert!(flights.delivered(first).is_none(), "reported twice");
        assert!(flights.hand_over().is_empty());
    }

    #[tokio::test]
    async fn what_was_delivered_so_far_can_be_handed_over() {
        let (mut flights, batch) = (Flights::default(), batch(6));
        let first = flights.begin(&batch, 0..6);
        flights.withdraw(first, &[3]);
        for index in [0, 1, 5] {
            assert!(flights.delivered(first + index).is_none());
        }
        assert_eq!(flights.hand_over().len(), 1);
        assert_eq!(runs(&batch).await, [0..2, 5..6]);
        assert_eq!(flights.take(first + 2).map(|(_, index)| index), Some(2));
        assert!(flights.take(first + 2).is_none() && flights.take(first + 3).is_none());
        let left: Vec<_> = flights.abandon().into_iter().map(|(_, indices)| indices).collect();
        assert_eq!(left, [vec![4]]);
        assert_eq!(flights.under_way(), 0);
    }

    #[tokio::test]
    async fn slots_are_used_again() {
        let mut flights = Flights::default();
        for _ in 0..3 {
            let batch = batch(2);
            let first = flights.begin(&batch, 0..2);
            assert_eq!(first, 0);
            flights.delivered(first);
            assert!(flights.delivered(first + 1).is_some());
            assert_eq!(runs(&batch).await, vec![0..2]);
        }
    }
}
