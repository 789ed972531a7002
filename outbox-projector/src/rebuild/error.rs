use std::borrow::Cow;

use outbox_core::{error::BoxError, source::SourceError};

use crate::ProjectorError;

/// Why a rebuild ended before its end. The read model in use is as it was, or already the new one.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RebuildError {
    kind: RebuildErrorKind,
    message: Cow<'static, str>,
    source: Option<BoxError>,
}

/// The kinds of [`RebuildError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RebuildErrorKind {
    /// It was told to stop. Run it again to go on.
    Stopped,
    /// Another rebuild of the read model is under way, or one died a moment ago; or this one was taken for dead and another
    /// has begun. Nothing was changed, or nothing more.
    Busy,
    /// The claim to the read model could not be renewed in time, and another rebuild may have it. Run it again to go on.
    Lapsed,
    /// The store cannot be reached while generations are looked up, created, swapped or dropped: the same may succeed
    /// later.
    Unavailable,
    /// The store refused, or is not as it should be.
    Store,
    /// The source cannot be read, or the projection says what does not pass by itself.
    Source,
}

impl RebuildError {
    /// An error of this kind; `message` says what happened and what to do about it.
    #[must_use]
    pub fn new(kind: RebuildErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
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
    pub fn kind(&self) -> RebuildErrorKind {
        self.kind
    }
}

impl From<SourceError> for RebuildError {
    fn from(error: SourceError) -> Self {
        Self::new(RebuildErrorKind::Source, "the source of the rebuild cannot be opened").with_source(error)
    }
}

impl From<ProjectorError> for RebuildError {
    fn from(error: ProjectorError) -> Self {
        Self::new(RebuildErrorKind::Source, "the new generation cannot be built").with_source(error)
    }
}
