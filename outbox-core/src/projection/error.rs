use std::{borrow::Cow, time::Duration};

use crate::error::BoxError;

/// Why events could not be applied.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ProjectionError {
    kind: ProjectionErrorKind,
    message: Cow<'static, str>,
    event: Option<usize>,
    retry_after: Option<Duration>,
    source: Option<BoxError>,
}

/// The kinds of [`ProjectionError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProjectionErrorKind {
    /// The store cannot be reached, no fault of any event: the same step is tried again, for ever.
    Unavailable,
    /// Somebody else moved the position: nothing was applied. Read the position again.
    Conflict,
    /// An event failed and may succeed later. Nothing of the step was applied; tries are counted.
    Failed,
    /// An event will not succeed as it is. Nothing of the step was applied.
    Rejected,
    /// The projection's tables are missing: migrate first.
    NotMigrated,
    /// The projection was replaced by a newer generation: this one is to end.
    Retired,
}

impl ProjectionError {
    /// An error of this kind; `message` says what happened and what to do about it.
    #[must_use]
    pub fn new(kind: ProjectionErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), event: None, retry_after: None, source: None }
    }

    /// Names the event at fault by its index in [`Step::events`](super::Step::events).
    #[must_use]
    pub fn at(mut self, event: usize) -> Self {
        self.event = Some(event);
        self
    }

    /// Asks for the next try after this time, instead of the caller's own backoff.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What a caller can match on.
    #[must_use]
    pub fn kind(&self) -> ProjectionErrorKind {
        self.kind
    }

    /// The index of the event at fault, when it is known.
    #[must_use]
    pub fn event(&self) -> Option<usize> {
        self.event
    }

    /// When to try again, if the projection said so.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl ProjectionErrorKind {
    /// Whether an event is at fault, so that it can be given up.
    #[must_use]
    pub fn blames_an_event(self) -> bool {
        matches!(self, Self::Failed | Self::Rejected)
    }
}
