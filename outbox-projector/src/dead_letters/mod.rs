//! Dead letters: records that a projection gave up, kept with the reason until somebody looks after them.
//!
//! Those of a topic are read with [`read_to_end`] as [`TopicLetter`]s, to be looked at, or replayed into the projection
//! that they belong to: by [`replay`] where it tells duplicates by itself, as an inbox and projections into stores of
//! documents do, and by `sql::SqlDeadLetters::replay` where it is a SQL projection, which knows what letters it has.

mod read_to_end;
pub(crate) mod reading;
mod replay;
mod replayable;
mod report;
mod series;
mod topic;
mod topic_letter;

use async_trait::async_trait;
use outbox_core::{error::BoxError, projection::DeadLetter};

pub use read_to_end::read_to_end;
pub use replay::{Letters, Replay, replay};
pub use replayable::{ReadLetter, Replayable};
pub use report::{ReplayReport, ReplayedKey};
pub use series::Series;
pub use topic::{TopicDeadLetters, header};
pub use topic_letter::{NoTopicLetter, TopicLetter};

/// A place for dead letters outside of the projection's own store.
///
/// # Contract
/// When `store` returns, every letter is as durable as an effect. Only then does the projection pass over its records.
///
/// # Duplicates
/// A letter may be stored again, after a crash or when an answer was lost: [`DeadLetter::id`] is the same then.
///
/// # Ordering
/// Letters of one key are stored in order.
///
/// # Concurrency
/// Called for several partitions side by side.
///
/// # Cancellation
/// Dropping `store` leaves any of the letters stored; they come again.
///
/// # Errors
/// Whatever the error, the partition waits and the same letters are stored again: nothing is dropped.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Stores the letters of a projection.
    ///
    /// # Errors
    /// [`DeadLettersError`]; see the trait's *Errors*.
    async fn store(&self, projection: &str, letters: &[DeadLetter]) -> Result<(), DeadLettersError>;
}

/// Why dead letters could not be stored.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DeadLettersError {
    kind: DeadLettersErrorKind,
    message: String,
    source: Option<BoxError>,
}

/// The kinds of [`DeadLettersError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadLettersErrorKind {
    /// The place cannot be reached: tried again, for ever.
    Unavailable,
    /// The place refuses a letter, or it is a dead letter already: somebody has to act.
    Refused,
}

impl DeadLettersError {
    /// An error of this kind; `message` says what happened and what to do about it.
    #[must_use]
    pub fn new(kind: DeadLettersErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What a caller can match on.
    #[must_use]
    pub fn kind(&self) -> DeadLettersErrorKind {
        self.kind
    }
}

impl DeadLettersErrorKind {
    /// Whether it does not pass before somebody acts.
    #[must_use]
    pub fn needs_action(self) -> bool {
        matches!(self, Self::Refused)
    }
}
