use std::collections::HashSet;

use async_trait::async_trait;
use outbox_core::projection::Step;
use sqlx::{Pool, Transaction, error::DatabaseError};
use uuid::Uuid;

use super::{Series, generations::GenerationStore, letters::LetterStore, watermark::Watermarks};

/// A database that read models can live in: `sqlx::Postgres` or `sqlx::Sqlite`, each with its feature. Sealed.
pub trait SqlDatabase: Store + GenerationStore + LetterStore {}

impl<DB: Store + GenerationStore + LetterStore> SqlDatabase for DB {}

/// What differs between databases. Each method is one statement.
#[async_trait]
pub trait Store: sqlx::Database {
    /// Which tables: the statements that name them.
    type Tables: Default + Send + Sync + 'static;

    async fn begin(pool: &Pool<Self>) -> Result<Transaction<'static, Self>, sqlx::Error>;

    async fn position(
        tables: &Self::Tables,
        pool: &Pool<Self>,
        projection: &str,
        partition: &str,
    ) -> Result<Option<String>, sqlx::Error>;

    /// Compare and swap. `false`: the position is not `step.from`. Until the transaction ends nobody else moves it.
    async fn move_position(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        step: Step<'_>,
    ) -> Result<bool, sqlx::Error>;

    /// Raises the watermark of each series to the highest sequence of the step, where it is not higher, and tells
    /// `watermarks` what stood there before. Until the transaction ends nobody else raises or locks them.
    async fn raise(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        watermarks: &mut Watermarks,
    ) -> Result<(), sqlx::Error>;

    /// Nobody else raises or locks the watermark of a series until the transaction ends, whether or not there is one.
    async fn lock(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        series: &Series,
    ) -> Result<(), sqlx::Error>;

    /// Fails when an earlier statement broke the transaction, where committing it would say that all is well.
    async fn probe(tx: &mut Transaction<'_, Self>) -> Result<(), sqlx::Error>;

    /// Remembers events by their ids, and says which were not known.
    async fn unseen(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        ids: &[Uuid],
    ) -> Result<HashSet<Uuid>, sqlx::Error>;

    fn is_missing_table(error: &dyn DatabaseError) -> bool;
}
