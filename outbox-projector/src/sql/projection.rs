use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};
use sqlx::{Pool, Transaction};

use super::{BlockedKeys, Handler, ProjectionName, SqlDatabase, step::after_handler};
use crate::trace::{self, LinkTrace};

/// A read model in a SQL database, written by a [`Handler`].
///
/// One transaction a step: the position moves by compare-and-swap, which also keeps a second runner out; the watermarks
/// of the step's keys are raised, which also locks them; events that are not above what stood there are dropped; the
/// handler writes the rest; commit. So after a crash at any point either all of it is there or nothing, and a duplicate
/// has no effect however late it comes.
///
/// With a pool that is one write connection for SQLite: every transaction begins `IMMEDIATE`.
pub struct SqlProjection<DB: SqlDatabase> {
    pub(super) pool: Pool<DB>,
    pub(super) name: ProjectionName,
    pub(super) handler: Box<dyn Handler<DB>>,
    pub(super) tables: Arc<DB::Tables>,
    pub(super) versioned: bool,
    /// Whether dead letters are kept here, and what they do to later events of their key.
    pub(super) letters: Option<BlockedKeys>,
    link: Option<LinkTrace>,
}

/// Settings of a [`SqlProjection`].
pub struct SqlProjectionBuilder<DB: SqlDatabase>(SqlProjection<DB>);

impl<DB: SqlDatabase> SqlProjection<DB> {
    /// A projection of this name into the database behind `pool`. Its tables have to be there when it is run.
    #[must_use]
    pub fn builder(
        pool: Pool<DB>,
        name: ProjectionName,
        handler: impl Handler<DB> + 'static,
    ) -> SqlProjectionBuilder<DB> {
        Self::of(pool, name, Box::new(handler), Arc::default())
    }

    pub(super) fn of(
        pool: Pool<DB>,
        name: ProjectionName,
        handler: Box<dyn Handler<DB>>,
        tables: Arc<DB::Tables>,
    ) -> SqlProjectionBuilder<DB> {
        SqlProjectionBuilder(Self { pool, name, handler, tables, versioned: false, letters: None, link: None })
    }
}

impl<DB: SqlDatabase> SqlProjectionBuilder<DB> {
    /// Keeps no watermarks. The handler promises to compare the event's sequence with a version column of its own rows,
    /// deleted ones included, and to write nothing when it is not above: late duplicates reach it. Events without a
    /// sequence are still told apart by their id.
    #[must_use]
    pub fn versioned(mut self) -> Self {
        self.0.versioned = true;
        self
    }

    /// Joins each event's span to the trace of its producer; see [`trace`]. Default: not.
    #[must_use]
    pub fn link_traces(mut self, link: LinkTrace) -> Self {
        self.0.link = Some(link);
        self
    }

    /// Keeps dead letters in the projection's own database, written in the transaction of their step, and says what they
    /// do to later events of their key; see [`SqlDeadLetters`](super::SqlDeadLetters). Default: none are kept here. A
    /// projector that has no other place for them then waits at an event that it cannot apply.
    #[must_use]
    pub fn dead_letters(mut self, blocked_keys: BlockedKeys) -> Self {
        self.0.letters = Some(blocked_keys);
        self
    }

    /// The projection. Nothing is sent to the database.
    #[must_use]
    pub fn build(self) -> SqlProjection<DB> {
        self.0
    }

    #[cfg(feature = "postgres")]
    pub(super) fn tables(mut self, tables: DB::Tables) -> Self {
        self.0.tables = Arc::new(tables);
        self
    }
}

#[async_trait]
impl<DB: SqlDatabase> Projection for SqlProjection<DB> {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        ProjectionCapabilities::new(true).with_keeps_dead_letters(self.letters.is_some())
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        let found = DB::position(&self.tables, &self.pool, self.name.as_str(), partition.as_str()).await;
        let found = found.map_err(store_error::<DB>)?.map(SourcePosition::from_text);
        if found.is_none()
            && DB::is_retired(&self.tables, &self.pool, self.name.as_str()).await.map_err(store_error::<DB>)?
        {
            return Err(ProjectionError::new(ProjectionErrorKind::Retired, "a newer generation is live"));
        }
        Ok(found)
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        trace::projecting(self.name(), step, self.link, self.apply_step(step)).await
    }
}

impl<DB: SqlDatabase> SqlProjection<DB> {
    async fn apply_step(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let mut tx = begin::<DB>(&self.pool).await?;
        let done = self.apply_within(&mut tx, step).await;
        end(tx, done).await
    }
}

pub(crate) fn store_error<DB: SqlDatabase>(error: sqlx::Error) -> ProjectionError {
    let (kind, message) = if error.as_database_error().is_some_and(DB::is_missing_table) {
        (
            ProjectionErrorKind::NotMigrated,
            "the projector's tables are missing or of an earlier version: run SqlProjection::migrate once",
        )
    } else {
        (ProjectionErrorKind::Unavailable, "the projection's database cannot be reached, or refused")
    };
    ProjectionError::new(kind, message).with_source(error)
}

/// In a task of its own, which ends a `BEGIN` that its caller dropped: sqlx 0.9.0 forgets it, and the pool would lend the
/// connection to others in the middle of that transaction (sqlx #4393).
pub(crate) async fn begin<DB: SqlDatabase>(pool: &Pool<DB>) -> Result<Transaction<'static, DB>, ProjectionError> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { DB::begin(&pool).await }).await;
    let stopping = |stopping| {
        ProjectionError::new(ProjectionErrorKind::Unavailable, "the runtime is shutting down").with_source(stopping)
    };
    begun.map_err(stopping)?.map_err(store_error::<DB>)
}

/// Commits what went well, and rolls back what did not.
pub(crate) async fn end<DB: SqlDatabase, T>(
    tx: Transaction<'static, DB>,
    done: Result<T, ProjectionError>,
) -> Result<T, ProjectionError> {
    match done {
        Ok(done) => {
            tx.commit().await.map_err(after_handler::<DB>)?;
            Ok(done)
        }
        Err(error) => {
            // Locks go now instead of when the connection is back in its pool; a lost connection rolled back already.
            let _lost = tx.rollback().await;
            Err(error)
        }
    }
}
