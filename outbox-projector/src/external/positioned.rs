use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};

use super::{Documents, StoreError, VersionedWrite, newest::Newest, versioned::unavailable};
use crate::trace::{self, LinkTrace};

/// A store of documents that commits them together with the position, such as an index embedded in the process.
///
/// # Contract
/// [`PositionedStore::commit`] makes the writes and the move of the partition's position durable together: after a crash
/// either all of it is there or nothing. A write takes effect if its version is above that of the document with its id.
/// One without a document leaves a tombstone, a document that no query finds and that stays, as with a
/// [`VersionedStore`](super::VersionedStore). No commit has an id twice.
///
/// # Duplicates
/// The position tells what the source delivers again. It does not tell a duplicate that was written again by a relay and
/// arrives late: versions do, so they are compared all the same.
///
/// # Ordering
/// Commits of one partition follow each other; those of several may touch the same ids in any order.
///
/// # Concurrency
/// Of two commits that begin at one position, one succeeds; the other has a [`CommitError::Conflict`] and no effect.
///
/// # Cancellation
/// Dropping `commit` leaves all of its effect or none.
///
/// # Errors
/// After any [`CommitError`] nothing of the commit is there, or, when an answer was lost, all of it: the position tells.
/// The next commit carries nothing of it either. A writer that gathers changes before it commits them is best dropped
/// after a failure or a panic, and opened again from what was committed.
#[async_trait]
pub trait PositionedStore: Send + Sync {
    /// The position of a partition, as of the last commit.
    ///
    /// # Errors
    /// [`StoreError`]; tried again, for ever.
    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, StoreError>;

    /// Commits writes and position. For each write, whether it was stored; `false`: it was stale.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn commit(&self, commit: Commit) -> Result<Vec<bool>, CommitError>;
}

/// Writes, and the move of a position that belongs to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Whose position moves.
    pub partition: Partition,
    /// Where it has to stand; `None`: it was never moved.
    pub from: Option<SourcePosition>,
    /// Where it stands afterwards. May be where it stood.
    pub to: SourcePosition,
    /// May be empty, when only the position moves.
    pub writes: Vec<VersionedWrite>,
}

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The position is not [`Commit::from`].
    #[error("the store has moved on from where the commit begins; read its position")]
    Conflict,
    /// The store never takes one of the documents.
    #[error("write {write} is refused: {reason}")]
    Refused {
        /// Its index in [`Commit::writes`].
        write: usize,
        /// Why.
        reason: String,
    },
    /// Anything else. The same is tried again, for ever.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A projection into a store that keeps the position with its own commit. A step is one commit.
///
/// Of several changes of one document in a step only the newest is written; the older ones count as what became of that
/// one.
pub struct PositionedProjection<S, D> {
    name: Arc<str>,
    store: S,
    pub(super) documents: D,
    link: Option<LinkTrace>,
}

impl<S: PositionedStore, D: Documents> PositionedProjection<S, D> {
    /// A projection of this name, which shows in logs and metrics. The position is kept by the store, for all projections
    /// into it: give each its own.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, store: S, documents: D) -> Self {
        Self { name: name.into(), store, documents, link: None }
    }

    /// Joins each event's span to the trace of its producer; see [`trace`](crate::trace). Default: not.
    #[must_use]
    pub fn link_traces(mut self, link: LinkTrace) -> Self {
        self.link = Some(link);
        self
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }
}

#[async_trait]
impl<S: PositionedStore, D: Documents> Projection for PositionedProjection<S, D> {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        ProjectionCapabilities::new(true)
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        self.store.position(partition).await.map_err(unavailable)
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        trace::projecting(&self.name, step, self.link, self.commit_step(step)).await
    }
}

impl<S: PositionedStore, D: Documents> PositionedProjection<S, D> {
    async fn commit_step(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let newest = Newest::of(&self.documents, step.events)?;
        self.commit(step.partition, step.from, step.to, newest).await
    }

    pub(super) async fn commit(
        &self,
        partition: &Partition,
        from: Option<&SourcePosition>,
        to: &SourcePosition,
        newest: Newest,
    ) -> Result<Applied, ProjectionError> {
        let Newest { writes, behind, counted: mut applied } = newest;
        let (partition, from, to) = (partition.clone(), from.cloned(), to.clone());
        let stored = self.store.commit(Commit { partition, from, to, writes }).await.map_err(|error| {
            let conflict = ProjectionErrorKind::Conflict;
            match error {
                CommitError::Conflict => ProjectionError::new(conflict, "the store has moved on from this position"),
                CommitError::Store(error) => unavailable(error),
                CommitError::Refused { write, reason } => {
                    // What a store says may quote the document, so it is a cause, which no log shows.
                    let error = ProjectionError::new(ProjectionErrorKind::Rejected, "the store refuses a document");
                    let error = error.with_source(reason);
                    match behind.get(write) {
                        Some(behind) => error.at(behind.event),
                        None => error,
                    }
                }
            }
        })?;
        for (behind, stored) in behind.iter().zip(stored) {
            behind.count(stored, &mut applied);
        }
        Ok(applied)
    }
}
