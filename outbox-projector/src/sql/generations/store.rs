use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Pool, Transaction};

use crate::sql::store::Store;

/// What differs between databases about generations.
#[async_trait]
pub trait GenerationStore: Store {
    /// Whether all who write take turns, in no order.
    const HAS_ONE_WRITER: bool;

    /// Keeps others from changing the generations of a read model until the transaction ends.
    async fn lock_read_model(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
    ) -> Result<(), sqlx::Error>;

    /// All generations of a read model and their stages.
    async fn stages(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
    ) -> Result<Vec<(i64, String)>, sqlx::Error>;

    async fn set_stage(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        generation: i64,
        projection: &str,
        stage: &'static str,
    ) -> Result<(), sqlx::Error>;

    /// Takes a projection's positions away.
    async fn forget_positions(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
    ) -> Result<(), sqlx::Error>;

    /// Removes rows of each table that keeps something under a projection's name: at most so many where a database has
    /// one writer. Whether none is left.
    async fn forget_some(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        limit: u32,
    ) -> Result<bool, sqlx::Error>;

    /// Whether a projection belongs to a generation that is not to be written any more.
    async fn is_retired(tables: &Self::Tables, pool: &Pool<Self>, projection: &str) -> Result<bool, sqlx::Error>;

    /// Keeps a rebuild's claim for so long from now on, by the database's clock. `false`: another has it.
    async fn claim_rebuild(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        holder: &str,
        lease: Duration,
    ) -> Result<bool, sqlx::Error>;

    /// As [`GenerationStore::claim_rebuild`] for whoever has the claim, ended or not. `false`: another has it, or nobody.
    async fn renew_rebuild(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        holder: &str,
        lease: Duration,
    ) -> Result<bool, sqlx::Error>;

    /// Who claimed a read model last and did not release it.
    async fn rebuild_holder(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
    ) -> Result<Option<String>, sqlx::Error>;

    /// Takes a rebuild's claim away.
    async fn release_rebuild(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        holder: &str,
    ) -> Result<(), sqlx::Error>;

    /// Runs the application's statements.
    async fn run_script(tx: &mut Transaction<'_, Self>, sql: String) -> Result<(), sqlx::Error>;
}

/// Where things are kept under a projection's name, and what tells its rows apart there.
pub(super) const TABLES: [(&str, &str); 4] = [
    ("projector_position", "partition"),
    ("projector_watermark", "log_id, aggregate_type, ordering_key"),
    ("projector_seen", "event_id"),
    ("projector_dead_letter", "number"),
];
