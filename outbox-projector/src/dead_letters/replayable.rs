use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, Projection, ProjectionError},
};

use super::TopicLetter;

/// A projection into which [`replay`](super::replay) brings the events of dead letters. It keeps no list of its letters: it
/// tells by itself whether an event had its effect, by its id or by the version of what it wrote.
///
/// [`VersionedProjection`](crate::external::VersionedProjection),
/// [`PositionedProjection`](crate::external::PositionedProjection) and `inbox::InboxProjection` are such projections. For
/// one of your own:
///
/// # Contract
/// `apply_letter` makes the effect durable, as [`Projection::apply`] does, and moves no position. `try_letters` leaves
/// nothing behind, and says what would happen as far as it can be known without.
///
/// # Duplicates
/// A letter may come again, whenever somebody replays it again, and so may the same event in another letter: it is counted
/// as a duplicate, and has no effect again.
///
/// # Ordering
/// Letters of one key come in the order of their sequences, one after another, and none behind one that failed. Later
/// events of the key may have had their effect long before.
///
/// # Concurrency
/// Projectors of the same projection may run meanwhile, in this process or in others.
///
/// # Cancellation
/// Dropping `apply_letter` leaves all of its effect or none; the letter can be replayed again.
///
/// # Errors
/// An error that [blames an event](outbox_core::projection::ProjectionErrorKind::blames_an_event) keeps the letter and the
/// rest of its key; a panic is one. After [`Conflict`](outbox_core::projection::ProjectionErrorKind::Conflict) the same
/// letter is applied again at once. Any other error ends the replay.
#[async_trait]
pub trait Replayable: Projection {
    /// Makes the effect of a letter, once.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn apply_letter(&self, letter: &ReadLetter<'_>) -> Result<Applied, ProjectionError>;

    /// What would become of each of these letters of one key, applied one after another: up to the first that would fail,
    /// which is the last of the answer.
    async fn try_letters(&self, letters: &[ReadLetter<'_>]) -> Vec<Result<Applied, ProjectionError>>;
}

/// A letter whose event could be read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReadLetter<'l> {
    /// The letter.
    pub letter: &'l TopicLetter,
    /// Its event.
    pub event: ReceivedEvent,
}
