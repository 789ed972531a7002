use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Pool, Transaction};
use uuid::Uuid;

use super::{Claimed, TryClaimed};
use crate::sql::SqlDatabase;

/// A database that an inbox can live in: `sqlx::Postgres` or `sqlx::Sqlite`, each with its feature. Sealed.
pub trait InboxDatabase: SqlDatabase + Store {}

impl<DB: SqlDatabase + Store> InboxDatabase for DB {}

/// What differs between databases. Each method is one statement.
#[async_trait]
pub trait Store: sqlx::Database {
    /// Which table: the statements that name it.
    type Table: Default + Send + Sync + 'static;

    /// Whether several transactions can write at the same time.
    const WRITES_SIDE_BY_SIDE: bool;

    async fn claim(
        table: &Self::Table,
        tx: &mut Transaction<'_, Self>,
        consumer: &str,
        event_id: Uuid,
    ) -> Result<Claimed, sqlx::Error>;

    async fn try_claim(
        table: &Self::Table,
        tx: &mut Transaction<'_, Self>,
        consumer: &str,
        event_id: Uuid,
    ) -> Result<TryClaimed, sqlx::Error>;

    /// Removes the oldest claims of this age, at most so many.
    async fn prune(
        table: &Self::Table,
        pool: &Pool<Self>,
        consumer: &str,
        older_than: Duration,
        limit: u32,
    ) -> Result<u64, sqlx::Error>;
}
