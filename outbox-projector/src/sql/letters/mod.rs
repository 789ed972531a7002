//! Dead letters in the projection's own database.

mod bodies;
mod headers;
mod letter;
mod plan;
#[cfg(feature = "postgres")]
mod postgres;
mod replay;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;
mod store;
mod trial;
mod unit;

use outbox_core::projection::{DeadLetterCause, ProjectionError};
use uuid::Uuid;

pub(super) use letter::NewLetter;
pub use letter::{KeptLetter, KeptRecord};
pub(super) use store::LetterStore;

use super::{
    Letters, Series, SqlDatabase, SqlProjection,
    projection::{begin, store_error},
};

/// What becomes of later events of a key that has a dead letter.
///
/// A record that could not be decoded has no key, and an event without a sequence has no place among others: neither
/// holds anything back nor is held back. Once a replay can decode such a record, it is a letter of its key like others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockedKeys {
    /// They have their effect. The letter has its effect late, when it is replayed: for read models that do not mind, such
    /// as counters.
    Pass,
    /// They become dead letters themselves, in the commit of their step and whatever they are, until the last letter of
    /// the key is replayed or discarded. So the order of the key stays as it was written, and the key stands still.
    Hold,
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LetterFilter {
    /// Only letters of this key. Default: of all, and those without.
    pub series: Option<Series>,
    /// Only letters given up for this cause. Default: for any.
    pub cause: Option<DeadLetterCause>,
    /// Begins with the letters given up last. Default: with the first.
    pub newest_first: bool,
}

/// The dead letters of one projection: to be looked at, replayed or discarded, while projectors run or not.
///
/// Letters are kept by a projection that was built with
/// [`SqlProjectionBuilder::dead_letters`](super::SqlProjectionBuilder::dead_letters), in the transaction of the step that
/// passes over them. Where they are stored elsewhere, as in a topic, their ids are kept here all the same: that is what
/// lets each of them have its effect once, see [`Replay::from_topic`](super::Replay::from_topic).
///
/// # Duplicates
/// An event that is a dead letter counts as seen: when it comes again it is dropped, and its letter stays. Only the
/// letter passes the watermark, once: its row goes in the transaction of its effect. A record that could not be decoded
/// is told by its event's id once it can be. If that event came a second time in the meantime, could be decoded then and
/// was followed by newer ones, that is not noticed: discard the letters of records that were delivered again.
///
/// # Concurrency
/// A replay locks a key as a step does, so that a projector that meets the same key waits, and goes on behind it.
///
/// # Errors
/// All methods: [`ProjectionErrorKind::Unavailable`](outbox_core::projection::ProjectionErrorKind::Unavailable),
/// [`NotMigrated`](outbox_core::projection::ProjectionErrorKind::NotMigrated).
///
/// # Cancellation
/// Dropping a call leaves what it has committed: each transaction as a whole.
pub struct SqlDeadLetters<'p, DB: SqlDatabase> {
    projection: &'p SqlProjection<DB>,
}

impl<DB: SqlDatabase> SqlProjection<DB> {
    /// The projection's dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> SqlDeadLetters<'_, DB> {
        SqlDeadLetters { projection: self }
    }
}

impl<DB: SqlDatabase> SqlDeadLetters<'_, DB> {
    /// At most `limit` letters, without their bodies.
    ///
    /// # Errors
    /// See the type's *Errors*.
    pub async fn list(&self, filter: &LetterFilter, limit: u32) -> Result<Vec<KeptLetter>, ProjectionError> {
        let SqlProjection { tables, pool, name, .. } = self.projection;
        DB::list_letters(tables, pool, name.as_str(), filter, limit).await.map_err(store_error::<DB>)
    }

    /// A letter and its body, if that is kept here.
    ///
    /// # Errors
    /// See the type's *Errors*.
    pub async fn get(&self, id: Uuid) -> Result<Option<(KeptLetter, Option<KeptRecord>)>, ProjectionError> {
        let SqlProjection { tables, pool, name, .. } = self.projection;
        DB::find_letter(tables, pool, name.as_str(), id).await.map_err(store_error::<DB>)
    }

    /// Removes letters without any effect, for good, and returns what they were. The reason is logged. The last letter of
    /// a key frees it.
    ///
    /// # Errors
    /// See the type's *Errors*.
    pub async fn discard(&self, which: &Letters, reason: &str) -> Result<Vec<KeptLetter>, ProjectionError> {
        let mut removed = Vec::new();
        match which {
            Letters::Key(series) => removed.extend(self.discard_series(series).await?),
            Letters::Id(id) => removed.extend(self.discard_one(*id).await?),
            Letters::All => {
                let SqlProjection { tables, pool, name, .. } = self.projection;
                let all = DB::series_with_letters(tables, pool, name.as_str()).await.map_err(store_error::<DB>)?;
                for series in &all {
                    removed.extend(self.discard_series(series).await?);
                }
                let all = DB::letters_without_series(tables, pool, name.as_str()).await.map_err(store_error::<DB>)?;
                for id in all {
                    removed.extend(self.discard_one(id).await?);
                }
            }
        }
        let projection = self.projection.name.as_str();
        for KeptLetter { id, place, .. } in &removed {
            tracing::warn!(projection, %id, place, reason, "a dead letter was discarded");
        }
        Ok(removed)
    }

    async fn discard_series(&self, series: &Series) -> Result<Vec<KeptLetter>, ProjectionError> {
        let SqlProjection { tables, pool, name, .. } = self.projection;
        let mut tx = begin::<DB>(pool).await?;
        self.lock_series(&mut tx, series).await?;
        let removed = DB::remove_series(tables, &mut tx, name.as_str(), series).await.map_err(store_error::<DB>)?;
        tx.commit().await.map_err(store_error::<DB>)?;
        Ok(removed)
    }

    async fn discard_one(&self, id: Uuid) -> Result<Option<KeptLetter>, ProjectionError> {
        let SqlProjection { tables, pool, name, .. } = self.projection;
        let Some((letter, _)) = self.get(id).await? else { return Ok(None) };
        let mut tx = begin::<DB>(pool).await?;
        if let Some(series) = &letter.series {
            self.lock_series(&mut tx, series).await?;
        }
        let removed = DB::remove_letters(tables, &mut tx, name.as_str(), &[letter.number]).await;
        let removed = removed.map_err(store_error::<DB>)?;
        tx.commit().await.map_err(store_error::<DB>)?;
        Ok((removed > 0).then_some(letter))
    }

    /// Nobody else changes the watermark of a key until the transaction ends.
    async fn lock_series(&self, tx: &mut sqlx::Transaction<'_, DB>, series: &Series) -> Result<(), ProjectionError> {
        let SqlProjection { tables, name, versioned, .. } = self.projection;
        if !versioned {
            DB::lock(tables, tx, name.as_str(), series).await.map_err(store_error::<DB>)?;
        }
        Ok(())
    }
}
