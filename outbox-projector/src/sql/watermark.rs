use std::collections::BTreeMap;

use outbox_core::event::{AggregateType, Event, LogId, ReceivedEvent, Sequence};
use uuid::Uuid;

/// The events whose sequences are compared with each other: those of one log, aggregate type and key.
///
/// The key is the one that serialises writers ([`Event::lane_key`]), not the message key: an aggregate `7` and an
/// ordering key `"7"` share the latter, their writers do not wait for each other, and the lower sequence may come last.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Series {
    /// The log. Nil for events that carry no sequence: nothing compares those.
    pub log: LogId,
    /// The type of the aggregates.
    pub aggregate_type: AggregateType,
    /// The key, [`Event::lane_key`].
    pub ordering_key: String,
}

impl Series {
    /// The series of an event of this log.
    #[must_use]
    pub fn of(log: LogId, event: &Event) -> Self {
        let ordering_key = event.lane_key().into_owned();
        Self { log, aggregate_type: event.aggregate_type.clone(), ordering_key }
    }

    /// The series of an event as it was received.
    #[must_use]
    pub fn of_received(received: &ReceivedEvent) -> Self {
        Self::of(received.origin.map_or(LogId(Uuid::nil()), |origin| origin.log), &received.event)
    }
}

/// The last sequences of the series in one step, as stored and as they will be. Sorted, so that every transaction locks
/// rows in the same order.
#[derive(Debug, Default)]
pub struct Watermarks(BTreeMap<Series, Mark>);

#[derive(Debug, Default, Clone, Copy)]
struct Mark {
    stored: Option<i64>,
    reached: Option<i64>,
}

/// A watermark to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raised<'a> {
    pub(super) series: &'a Series,
    pub(super) sequence: i64,
    /// None is stored yet.
    pub(super) new: bool,
}

impl Watermarks {
    /// Those of all events that have a sequence, none stored yet.
    pub(super) fn of<'e>(events: impl IntoIterator<Item = &'e ReceivedEvent>) -> Self {
        let mut marks = Self::default();
        for received in events {
            if let Some(origin) = received.origin {
                marks.add(Series::of(origin.log, &received.event));
            }
        }
        marks
    }

    pub(super) fn add(&mut self, series: Series) {
        self.0.entry(series).or_default();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order in which [`Watermarks::stored`] counts them.
    pub(super) fn series(&self) -> impl Iterator<Item = &Series> {
        self.0.keys()
    }

    /// Takes over what the store has, as (index of the series, sequence).
    pub(super) fn stored(&mut self, found: Vec<(usize, i64)>) {
        let mut marks: Vec<&mut Mark> = self.0.values_mut().collect();
        for (index, sequence) in found {
            if let Some(mark) = marks.get_mut(index) {
                mark.stored = Some(sequence);
            }
        }
    }

    /// Whether the store knows nothing of this sequence, whatever the step brings.
    pub(super) fn is_unknown(&self, series: &Series, sequence: Sequence) -> bool {
        self.stored_of(series).is_none_or(|stored| sequence.get() as i64 > stored)
    }

    /// Whether the event with this sequence is the last one that the store knows.
    pub(super) fn is_last(&self, series: &Series, sequence: Sequence) -> bool {
        self.stored_of(series) == Some(sequence.get() as i64)
    }

    fn stored_of(&self, series: &Series) -> Option<i64> {
        self.0.get(series).and_then(|mark| mark.stored)
    }

    /// Whether an event with this sequence is news; its series then stands there.
    pub(super) fn pass(&mut self, series: &Series, sequence: Sequence) -> bool {
        let sequence = sequence.get() as i64;
        let Some(mark) = self.0.get_mut(series) else { return false };
        let news = mark.reached.max(mark.stored).is_none_or(|last| sequence > last);
        if news {
            mark.reached = Some(sequence);
        }
        news
    }

    pub(super) fn raised(&self) -> Vec<Raised<'_>> {
        let raised = |(series, mark): (_, &Mark)| {
            mark.reached.map(|sequence| Raised { series, sequence, new: mark.stored.is_none() })
        };
        self.0.iter().filter_map(raised).collect()
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::event::NewEvent;

    use super::*;

    fn series(event: NewEvent) -> Series {
        Series::of(LogId(Uuid::nil()), event.event())
    }

    fn tutor(id: u8) -> NewEvent {
        NewEvent::tombstone("Tutor", id, "TutorUpdated").expect("event")
    }

    fn at(position: u64) -> Sequence {
        Sequence::new(0, position).expect("sequence")
    }

    #[test]
    fn only_what_lies_above_passes_also_within_a_step() {
        let (one, two) = (series(tutor(1)), series(tutor(2)));
        let mut marks = Watermarks::default();
        marks.add(one.clone());
        marks.add(two.clone());
        marks.stored(vec![(0, 10)]);
        let passed: Vec<bool> = [(&one, 9), (&one, 10), (&one, 12), (&one, 11), (&one, 12), (&two, 3), (&two, 3)]
            .map(|(series, position)| marks.pass(series, at(position)))
            .to_vec();
        assert_eq!(passed, [false, false, true, false, false, true, false]);
        let raised: Vec<_> = marks.raised().iter().map(|r| (r.series.clone(), r.sequence, r.new)).collect();
        assert_eq!(raised, [(one, 12, false), (two, 3, true)]);
    }

    #[test]
    fn a_series_that_nothing_passed_is_not_written() {
        let mut marks = Watermarks::default();
        marks.add(series(tutor(1)));
        marks.stored(vec![(0, 10)]);
        assert!(!marks.pass(&series(tutor(1)), at(4)));
        assert_eq!(marks.raised(), []);
    }

    #[test]
    fn an_aggregate_and_an_ordering_key_of_the_same_text_do_not_meet() {
        let by_key = tutor(2).with_ordering_key("1").expect("key");
        assert_eq!(by_key.event().message_key(), tutor(1).event().message_key());
        assert_ne!(series(by_key), series(tutor(1)));
    }

    #[test]
    fn a_higher_generation_lies_above_every_position_of_a_lower_one() {
        let mut marks = Watermarks::default();
        let one = series(tutor(1));
        marks.add(one.clone());
        assert!(marks.pass(&one, at(1_000_000)));
        assert!(marks.pass(&one, Sequence::new(1, 1).expect("sequence")));
        assert!(!marks.pass(&one, at(2_000_000)));
    }
}
