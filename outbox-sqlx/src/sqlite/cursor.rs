//! A place in the log is a position: with one writer at a time, positions are in the order of commit.

use outbox_core::{
    event::LogId,
    log::{Cursor, LogError, LogErrorKind},
};
use uuid::Uuid;

/// How far a consumer is: what a [`Cursor`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) log: LogId,
    pub(super) position: u64,
}

const VERSION: &str = "sqlite1";

impl Place {
    /// # Errors
    /// [`LogErrorKind::BadCursor`] when the text is not what [`Place::to_cursor`] makes.
    pub(super) fn parse(cursor: &Cursor) -> Result<Self, LogError> {
        Self::parse_text(cursor.as_text()).ok_or_else(|| {
            let message = format!("{:?} is no cursor of a SQLite log; use one that this log gave", cursor.as_text());
            LogError::new(LogErrorKind::BadCursor, message)
        })
    }

    fn parse_text(text: &str) -> Option<Self> {
        let (log, position) = text.strip_prefix(VERSION)?.strip_prefix(' ')?.split_once(' ')?;
        Some(Self { log: LogId(Uuid::try_parse(log).ok()?), position: position.parse().ok()? })
    }

    /// As text, for keeping.
    pub(super) fn to_cursor(self) -> Cursor {
        Cursor::from_text(format!("{VERSION} {} {}", self.log.0.as_simple(), self.position))
    }

    /// Whether this place can be of this log, whose newest position is `head`.
    ///
    /// # Errors
    /// [`LogErrorKind::BadCursor`] when it is another log's, or lies beyond its end.
    pub(super) fn check(self, log: LogId, head: u64) -> Result<(), LogError> {
        let refuse = |message: String| Err(LogError::new(LogErrorKind::BadCursor, message));
        if self.log != log {
            return refuse(format!("the cursor is of log {}, this is log {log}", self.log));
        }
        if self.position > head {
            return refuse(format!(
                "the cursor is at position {}, but the log ends at {head}: the file was restored to an earlier time, \
                 and the log has to be re-anchored",
                self.position
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_other_text_does_not() {
        let place = Place { log: LogId(Uuid::from_u128(7)), position: 12 };
        assert_eq!(Place::parse(&place.to_cursor()).expect("reads back"), place);
        for bad in ["", "12", "sqlite1", "sqlite1 x 3", "sqlite1 00000000000000000000000000000007 -1", "pg1 7 1:1: 0 1"]
        {
            let refused = Place::parse(&Cursor::from_text(bad)).expect_err(bad);
            assert_eq!(refused.kind(), LogErrorKind::BadCursor);
        }
    }
}
