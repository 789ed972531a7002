//! Projecting: effects of events in a store, applied once.

use async_trait::async_trait;

use crate::{
    error::kinded_error,
    event::ReceivedEvent,
    source::{Partition, SourcePosition},
};

/// A read model, an index, a side effect: whatever events are turned into.
///
/// Applications rarely implement this trait: `outbox-projector` does, around a handler of theirs. Stores that keep the
/// position with their own commit, such as an embedded search index, implement it directly.
///
/// # Contract
/// `apply` makes the effects of the events durable, in order, together with the position where
/// [`ProjectionCapabilities::keeps_position`] says so: after a crash either both are there or neither.
///
/// # Duplicates
/// An event may come again, later, behind newer events of its key. Its effect must not happen twice, and an older
/// event must not overwrite a newer one: skip an event whose sequence is not above the last one applied of its
/// aggregate type and [lane key](crate::event::Event::lane_key), or write with the sequence as version. Not of its
/// message key: an aggregate `7` and an ordering key `7` share that, but their writers do not wait for each other.
///
/// # Ordering
/// Events of one key come in order but for such duplicates.
///
/// # Concurrency
/// Two processes may believe that they own a partition. A projection that keeps the position refuses to move it from
/// anywhere but `from`: [`ProjectionErrorKind::Conflict`], and no effect. Partitions may be applied side by side.
///
/// # Cancellation
/// Dropping `apply` leaves all of its effect or none, where the position is kept; elsewhere the batch comes again.
///
/// # Errors
/// After [`ProjectionErrorKind::Unavailable`] the same batch is tried again; after [`ProjectionErrorKind::Rejected`]
/// too, since nothing may be lost: somebody has to act.
#[async_trait]
pub trait Projection: Send + Sync {
    /// A stable name: positions are kept under it.
    fn name(&self) -> &str;

    /// What this projection does differently.
    fn capabilities(&self) -> ProjectionCapabilities;

    /// The kept position of a partition; `None` when there is none, or the projection keeps none.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError>;

    /// Applies events of one partition and moves its position from `step.from` to `step.to`.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError>;
}

/// Some consecutive events of a partition, and the move of its position that belongs to them.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The partition.
    pub partition: &'a Partition,
    /// Where the position stands, as far as the caller knows; `None`: nowhere yet.
    pub from: Option<&'a SourcePosition>,
    /// Where it stands afterwards.
    pub to: &'a SourcePosition,
    /// The events in between. May be empty, when only the position moves.
    pub events: &'a [ReceivedEvent],
}

/// Where projections may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProjectionCapabilities {
    /// The position is kept in the same commit as the effects. Where it is not, the source's own commit counts, and
    /// repeated events have to be harmless by their version.
    pub keeps_position: bool,
}

impl ProjectionCapabilities {
    /// A projection that does or does not keep its position.
    #[must_use]
    pub fn new(keeps_position: bool) -> Self {
        Self { keeps_position }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Events whose effect was made.
    pub applied: usize,
    /// Events that were there already, or older than what was.
    pub duplicates: usize,
    /// Events of types this projection does not know.
    pub ignored: usize,
}

impl std::ops::AddAssign for Applied {
    fn add_assign(&mut self, more: Self) {
        self.applied += more.applied;
        self.duplicates += more.duplicates;
        self.ignored += more.ignored;
    }
}

kinded_error! {
    /// Why events could not be applied.
    ProjectionError, ProjectionErrorKind
}

/// The kinds of [`ProjectionError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProjectionErrorKind {
    /// The store cannot be reached: the same batch is tried again.
    Unavailable,
    /// Somebody else moved the position: nothing was applied. Read the position again.
    Conflict,
    /// An event cannot be applied. Nothing of the step was.
    Rejected,
    /// The projection's tables are missing: migrate first.
    NotMigrated,
}
