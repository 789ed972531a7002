//! Which positions are of which generation: the rows of `outbox_generation`.

use outbox_core::{
    event::Sequence,
    log::{LogError, LogErrorKind},
};

use crate::stored::corrupt;

/// The generations of a log, the oldest first. Each begins at a position and ends where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Generations(Vec<Generation>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Generation {
    number: u16,
    from: u64,
}

impl Generations {
    /// From pairs of generation and first position.
    ///
    /// # Errors
    /// [`LogErrorKind::Corrupt`] when there is none, or a number is out of range.
    pub(crate) fn parse(rows: impl IntoIterator<Item = (i64, i64)>) -> Result<Self, LogError> {
        let parse = |(number, from)| {
            let generation = Generation { number: u16::try_from(number).ok()?, from: u64::try_from(from).ok()? };
            Some(generation)
        };
        let rows: Option<Vec<Generation>> = rows.into_iter().map(parse).collect();
        let mut rows = rows
            .filter(|rows| !rows.is_empty())
            .ok_or_else(|| corrupt("the rows of outbox_generation are missing or out of range".to_owned()))?;
        rows.sort_unstable_by_key(|generation| generation.number);
        Ok(Self(rows))
    }

    /// The one that new events are of.
    pub(crate) fn newest(&self) -> u16 {
        self.0.last().map_or(0, |generation| generation.number)
    }

    /// The one that the event at this position is of.
    pub(crate) fn of(&self, position: u64) -> u16 {
        let begun = self.0.iter().rev().find(|generation| generation.from <= position);
        begun.or(self.0.first()).map_or(0, |generation| generation.number)
    }

    /// The sequence of the event at this position.
    ///
    /// # Errors
    /// [`LogErrorKind::Corrupt`] when the position is too large.
    pub(crate) fn sequence(&self, position: u64) -> Result<Sequence, LogError> {
        Sequence::new(self.of(position), position).ok_or_else(|| corrupt(format!("position {position} is too large")))
    }

    /// Whether an event of this log can have this sequence.
    pub(crate) fn include(&self, sequence: Sequence) -> bool {
        self.of(sequence.position()) == sequence.generation()
    }

    /// The first position behind a generation; `None` for the newest one, which has not ended.
    #[cfg(feature = "sqlite")]
    pub(crate) fn end_of(&self, number: u16) -> Option<u64> {
        self.0.iter().find(|generation| generation.number > number).map(|generation| generation.from)
    }

    /// The number of the next one.
    ///
    /// # Errors
    /// [`LogErrorKind::Incompatible`] after the 65,535th.
    pub(crate) fn next(&self) -> Result<u16, LogError> {
        self.newest().checked_add(1).ok_or_else(|| {
            let message = "the log was re-anchored 65,535 times and has no further generation; begin a new log";
            LogError::new(LogErrorKind::Incompatible, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_of_the_generation_begun_last() {
        let generations = Generations::parse([(2, 20), (0, 1), (1, 10)]).expect("generations");
        assert_eq!([1, 9, 10, 19, 20, 1_000].map(|position| generations.of(position)), [0, 0, 1, 1, 2, 2]);
        assert_eq!([0, 1, 2].map(|number| generations.end_of(number)), [Some(10), Some(20), None]);
        assert_eq!((generations.newest(), generations.next().expect("next")), (2, 3));
        let sequence = generations.sequence(12).expect("sequence");
        assert_eq!((sequence.generation(), sequence.position()), (1, 12));
        assert!(generations.include(sequence));
        assert!(!generations.include(Sequence::new(0, 12).expect("sequence")));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(Generations::parse([]).expect_err("none").kind(), LogErrorKind::Corrupt);
        assert_eq!(Generations::parse([(-1, 1)]).expect_err("negative").kind(), LogErrorKind::Corrupt);
        let last = Generations::parse([(65_535, 1)]).expect("generations");
        assert_eq!(last.next().expect_err("the last").kind(), LogErrorKind::Incompatible);
    }
}
