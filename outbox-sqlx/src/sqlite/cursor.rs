//! A place in the log is a position: with one writer at a time, positions are in the order of commit.

use outbox_core::{
    event::LogId,
    log::{Cursor, LogError, LogErrorKind},
};
use uuid::Uuid;

use super::reader::State;

/// How far a consumer is: what a [`Cursor`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    log: LogId,
    /// The newest one when the place was written. Positions are issued again after a restore, so a position alone does
    /// not say whether it was reached before or after.
    generation: u16,
    position: u64,
}

const VERSION: &str = "sqlite2";
/// Without a generation, when there was only the first one.
const VERSION_1: &str = "sqlite1";

impl Place {
    /// A place of this log as it is now.
    pub(super) fn at(position: u64, state: &State) -> Self {
        Self { log: state.identity.id, generation: state.generations.newest(), position }
    }

    /// # Errors
    /// [`LogErrorKind::BadCursor`] when the text is not what [`Place::to_cursor`] makes.
    pub(super) fn parse(cursor: &Cursor) -> Result<Self, LogError> {
        Self::parse_text(cursor.as_text()).ok_or_else(|| {
            let message = format!("{:?} is no cursor of a SQLite log; use one that this log gave", cursor.as_text());
            LogError::new(LogErrorKind::BadCursor, message)
        })
    }

    fn parse_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let version = words.next()?;
        let log = LogId(Uuid::try_parse(words.next()?).ok()?);
        let generation = match version {
            VERSION => words.next()?.parse().ok()?,
            VERSION_1 => 0,
            _ => return None,
        };
        let position = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Self { log, generation, position })
    }

    /// As text, for keeping.
    pub(super) fn to_cursor(self) -> Cursor {
        Cursor::from_text(format!("{VERSION} {} {} {}", self.log.0.as_simple(), self.generation, self.position))
    }

    /// The position, whatever log and time it is of.
    pub(super) fn position(self) -> u64 {
        self.position
    }

    /// The position, if it is one that this log has reached.
    ///
    /// # Errors
    /// [`LogErrorKind::BadCursor`] when the place is another log's, lies beyond the end, or was reached in a past that a
    /// restore undid.
    pub(super) fn within(self, state: &State) -> Result<u64, LogError> {
        let Self { log, generation, position } = self;
        let refuse = |message: String| Err(LogError::new(LogErrorKind::BadCursor, message));
        if log != state.identity.id {
            return refuse(format!("the cursor is of log {log}, this is log {}", state.identity.id));
        }
        if position > state.head || generation > state.generations.newest() {
            return refuse(format!(
                "the cursor is at position {position} of generation {generation}, but the log ends at {} of generation \
                 {}: the file was restored to an earlier time; re-anchor the log (`reanchor`)",
                state.head,
                state.generations.newest(),
            ));
        }
        match state.generations.end_of(generation) {
            Some(end) if position >= end => refuse(format!(
                "the cursor is at position {position} of generation {generation}, which a restore cut off at {end}: \
                 start again from a place of the restored log",
            )),
            _ => Ok(position),
        }
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::{event::LaneCount, log::LogIdentity};

    use super::*;
    use crate::generations::Generations;

    const LOG: LogId = LogId(Uuid::from_u128(7));

    fn state() -> State {
        let identity = LogIdentity { id: LOG, lanes: LaneCount::default(), generation: 1 };
        let generations = Generations::parse([(0, 1), (1, 11)]).expect("generations");
        State { identity, generations, head: 20 }
    }

    fn refusal(place: Place) -> String {
        let refused = place.within(&state()).expect_err("refused");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);
        refused.to_string()
    }

    #[test]
    fn a_cursor_reads_back_and_other_text_does_not() {
        let place = Place::at(12, &state());
        assert_eq!(Place::parse(&place.to_cursor()).expect("reads back"), place);
        let log = LOG.0.as_simple();
        let old = Cursor::from_text(format!("sqlite1 {log} 12"));
        assert_eq!(Place::parse(&old).expect("version 1"), Place { generation: 0, ..place });
        for bad in ["", "12", "sqlite2", "sqlite2 x 0 3", "pg1 7 1:1: 0 1"] {
            let refused = Place::parse(&Cursor::from_text(bad)).expect_err(bad);
            assert_eq!(refused.kind(), LogErrorKind::BadCursor);
        }
        for bad in ["-1", "0 -1", "0 1 2", "70000 1", "0"] {
            assert!(Place::parse(&Cursor::from_text(format!("sqlite2 {log} {bad}"))).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_places_that_this_log_has_reached_are_taken() {
        let place = |generation, position| Place { log: LOG, generation, position };
        for (generation, position) in [(0, 0), (0, 10), (1, 0), (1, 20)] {
            assert_eq!(place(generation, position).within(&state()).expect("reached"), position);
        }
        assert!(refusal(place(1, 21)).contains("reanchor"));
        assert!(refusal(place(2, 1)).contains("reanchor"));
        assert!(refusal(place(0, 11)).contains("cut off"));
        assert!(refusal(Place { log: LogId(Uuid::nil()), ..place(0, 1) }).contains("this is log"));
    }
}
