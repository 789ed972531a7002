use std::{borrow::Cow, collections::HashMap};

use outbox_core::event::{AggregateType, LogId, Origin, ReceivedEvent, Sequence};

use crate::dead_letters::Series;

/// The last sequences of the series in one step: as stored before, and as the step's events pass. Sorted, so that every
/// transaction locks rows in the same order.
#[derive(Debug, Default)]
pub struct Watermarks(Vec<Watermark>);

/// The last sequence of one series.
#[derive(Debug)]
pub(super) struct Watermark {
    pub(super) series: Series,
    /// The highest sequence of the step, below which nothing is news afterwards.
    pub(super) highest: i64,
    /// What the store had before, or what passed since.
    last: Option<i64>,
}

impl Watermarks {
    /// Those of all events that have a sequence, and for each event the index of its own.
    pub(super) fn of<'e>(events: impl IntoIterator<Item = &'e ReceivedEvent>) -> (Self, Vec<Option<usize>>) {
        let mut known: HashMap<(LogId, &AggregateType, Cow<'e, str>), usize> = HashMap::new();
        let mut marks: Vec<Watermark> = Vec::new();
        let mut places = Vec::new();
        for ReceivedEvent { event, origin, .. } in events {
            places.push(origin.map(|Origin { log, sequence }| {
                let place = *known.entry((log, &event.aggregate_type, event.lane_key())).or_insert(marks.len());
                let highest = sequence.get() as i64;
                match marks.get_mut(place) {
                    Some(mark) => mark.highest = mark.highest.max(highest),
                    None => marks.push(Watermark { series: Series::of(log, event), highest, last: None }),
                }
                place
            }));
        }
        let mut sorted: Vec<(usize, Watermark)> = marks.into_iter().enumerate().collect();
        sorted.sort_unstable_by(|(_, one), (_, other)| one.series.cmp(&other.series));
        let mut moved = vec![0; sorted.len()];
        for (to, (from, _)) in sorted.iter().enumerate() {
            moved[*from] = to;
        }
        for place in places.iter_mut().flatten() {
            *place = moved[*place];
        }
        (Self(sorted.into_iter().map(|(_, mark)| mark).collect()), places)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of their indices.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Watermark> {
        self.0.iter()
    }

    /// Takes over what stood in the store for a series of the step.
    pub(super) fn stood(
        &mut self,
        log: LogId,
        aggregate_type: &str,
        ordering_key: &str,
        sequence: Option<i64>,
    ) -> Result<(), sqlx::Error> {
        let place = self.0.binary_search_by(|Watermark { series, .. }| {
            let of = (series.log, series.aggregate_type.as_str(), series.ordering_key.as_str());
            of.cmp(&(log, aggregate_type, ordering_key))
        });
        match place.ok().and_then(|place| self.0.get_mut(place)) {
            Some(mark) => mark.last = sequence,
            None => return Err(sqlx::Error::Protocol(format!("a watermark that was not asked for: {ordering_key}"))),
        }
        Ok(())
    }

    /// Whether an event with this sequence would be news.
    pub(super) fn is_news(&self, place: usize, sequence: Sequence) -> bool {
        self.0.get(place).is_some_and(|mark| mark.last.is_none_or(|last| sequence.get() as i64 > last))
    }

    /// Whether this is the sequence where the series stands.
    pub(super) fn is_last(&self, place: usize, sequence: Sequence) -> bool {
        self.0.get(place).is_some_and(|mark| mark.last == Some(sequence.get() as i64))
    }

    /// Whether an event with this sequence is news; its series then stands there.
    pub(super) fn pass(&mut self, place: usize, sequence: Sequence) -> bool {
        let news = self.is_news(place, sequence);
        if let (true, Some(mark)) = (news, self.0.get_mut(place)) {
            mark.last = Some(sequence.get() as i64);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::event::NewEvent;
    use uuid::Uuid;

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

    fn received(event: NewEvent, sequence: Sequence) -> ReceivedEvent {
        let origin = Origin { log: LogId(Uuid::nil()), sequence };
        ReceivedEvent { origin: Some(origin), ..outbox_core::testing::Sequencer::default().receive(event) }
    }

    #[test]
    fn only_what_lies_above_passes_also_within_a_step() {
        let step = [(2, 3), (1, 9), (1, 10), (1, 12), (1, 11), (1, 12), (2, 3)];
        let events = step.map(|(id, position)| received(tutor(id), at(position)));
        let (mut marks, places) = Watermarks::of(&events);
        let highest: Vec<_> = marks.iter().map(|mark| (mark.series.ordering_key.as_str(), mark.highest)).collect();
        assert_eq!(highest, [("Tutor/1", 12), ("Tutor/2", 3)]);
        marks.stood(LogId(Uuid::nil()), "Tutor", "Tutor/1", Some(10)).expect("a series of the step");
        marks.stood(LogId(Uuid::nil()), "Tutor", "Tutor/2", None).expect("a series of the step");
        let passed: Vec<bool> = step
            .iter()
            .zip(places)
            .map(|((_, position), place)| marks.pass(place.expect("a sequence"), at(*position)))
            .collect();
        assert_eq!(passed, [true, false, false, true, false, false, false]);
    }

    #[test]
    fn an_event_without_a_sequence_has_no_watermark() {
        let mut without = received(tutor(1), at(1));
        without.origin = None;
        let (marks, places) = Watermarks::of(&[without, received(tutor(1), at(2))]);
        assert_eq!(places, [None, Some(0)]);
        assert_eq!(marks.iter().len(), 1);
    }

    #[test]
    fn what_was_not_asked_for_is_an_error() {
        let (mut marks, _) = Watermarks::of(&[received(tutor(1), at(1))]);
        let other = marks.stood(LogId(Uuid::nil()), "Tutor", "Tutor/2", Some(1)).expect_err("another series");
        assert!(other.to_string().contains("Tutor/2"), "{other}");
    }

    #[test]
    fn an_aggregate_and_an_ordering_key_of_the_same_text_do_not_meet() {
        let by_key = tutor(2).with_ordering_key("1").expect("key");
        assert_eq!(by_key.event().message_key(), tutor(1).event().message_key());
        assert_ne!(series(by_key), series(tutor(1)));
    }

    #[test]
    fn a_higher_generation_lies_above_every_position_of_a_lower_one() {
        let sequences = [at(1_000_000), Sequence::new(1, 1).expect("sequence"), at(2_000_000)];
        let (mut marks, _) = Watermarks::of(&sequences.map(|sequence| received(tutor(1), sequence)));
        assert_eq!(sequences.map(|sequence| marks.pass(0, sequence)), [true, true, false]);
    }
}
