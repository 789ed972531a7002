use std::borrow::Cow;

use outbox_core::{
    error::BoxError,
    projection::{ProjectionError, ProjectionErrorKind},
    source::{SourceError, SourceErrorKind},
};

/// Why a projector stopped. Only what does not pass by itself stops it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ProjectorError {
    kind: ProjectorErrorKind,
    message: Cow<'static, str>,
    source: Option<BoxError>,
}

/// The kinds of [`ProjectorError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProjectorErrorKind {
    /// The projection's tables are missing: migrate, then run again.
    NotMigrated,
    /// The source does not know the kept position: it was recreated or restored. Nothing was applied; somebody has to
    /// decide where to go on.
    BadPosition,
    /// The source cannot work as configured.
    Source,
    /// The projection was replaced by a newer generation: run that one.
    Retired,
}

impl ProjectorError {
    /// What a caller can match on.
    #[must_use]
    pub fn kind(&self) -> ProjectorErrorKind {
        self.kind
    }

    /// `Err` when the error does not pass by itself.
    pub(super) fn if_lasting_source(error: SourceError) -> Result<SourceError, Self> {
        let (kind, message) = match error.kind() {
            SourceErrorKind::Unavailable | SourceErrorKind::Revoked => return Ok(error),
            kind if kind == SourceErrorKind::BadPosition || kind.is_lost_position() => (
                ProjectorErrorKind::BadPosition,
                "the source does not know the projection's position; it was recreated or restored: rebuild the \
                 projection, or set its position by hand",
            ),
            _ => (ProjectorErrorKind::Source, "the source cannot work as configured"),
        };
        Err(Self { kind, message: message.into(), source: Some(error.into()) })
    }

    /// `Err` when the error does not pass by itself.
    pub(super) fn if_lasting_projection(error: ProjectionError) -> Result<ProjectionError, Self> {
        match error.kind() {
            ProjectionErrorKind::NotMigrated => Err(Self {
                kind: ProjectorErrorKind::NotMigrated,
                message: "the projection's tables are missing: migrate first, then run again".into(),
                source: Some(error.into()),
            }),
            ProjectionErrorKind::Retired => Err(Self {
                kind: ProjectorErrorKind::Retired,
                message: "the projection was rebuilt: a newer generation has taken its place".into(),
                source: Some(error.into()),
            }),
            _ => Ok(error),
        }
    }
}
