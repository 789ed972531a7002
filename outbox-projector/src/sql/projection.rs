use std::collections::HashSet;

use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};
use sqlx::{Pool, Transaction};
use uuid::Uuid;

use super::{
    Handler, HandlerError, HandlerErrorKind, ProjectionName, SqlDatabase,
    watermark::{Series, Watermarks},
};

/// A read model in a SQL database, written by a [`Handler`].
///
/// One transaction a step: the position moves by compare-and-swap, which also keeps a second runner out; the watermarks
/// of the step's keys are read and locked; events that are not above them are dropped; the handler writes the rest; the
/// watermarks are raised; commit. So after a crash at any point either all of it is there or nothing, and a duplicate
/// has no effect however late it comes.
///
/// With a pool that is one write connection for SQLite: every transaction begins `IMMEDIATE`.
pub struct SqlProjection<DB: SqlDatabase> {
    pool: Pool<DB>,
    name: ProjectionName,
    handler: Box<dyn Handler<DB>>,
    tables: DB::Tables,
    versioned: bool,
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
        SqlProjectionBuilder(Self {
            pool,
            name,
            handler: Box::new(handler),
            tables: DB::Tables::default(),
            versioned: false,
        })
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

    /// The projection. Nothing is sent to the database.
    #[must_use]
    pub fn build(self) -> SqlProjection<DB> {
        self.0
    }

    #[cfg(feature = "postgres")]
    pub(super) fn tables(mut self, tables: DB::Tables) -> Self {
        self.0.tables = tables;
        self
    }
}

#[async_trait]
impl<DB: SqlDatabase> Projection for SqlProjection<DB> {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        ProjectionCapabilities::new(true)
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        let found = DB::position(&self.tables, &self.pool, self.name.as_str(), partition.as_str()).await;
        Ok(found.map_err(store_error::<DB>)?.map(SourcePosition::from_text))
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let mut tx = begin::<DB>(&self.pool).await?;
        match self.apply_within(&mut tx, step).await {
            Ok(applied) => {
                tx.commit().await.map_err(store_error::<DB>)?;
                Ok(applied)
            }
            Err(error) => {
                // Locks go now instead of when the connection is back in its pool; a lost connection rolled back already.
                let _lost = tx.rollback().await;
                Err(error)
            }
        }
    }
}

impl<DB: SqlDatabase> SqlProjection<DB> {
    async fn apply_within(&self, tx: &mut Transaction<'_, DB>, step: Step<'_>) -> Result<Applied, ProjectionError> {
        if !DB::move_position(&self.tables, tx, self.name.as_str(), step).await.map_err(store_error::<DB>)? {
            return Err(conflict("somebody else moved the position"));
        }
        let mut watermarks = self.watermarks(tx, step.events).await?;
        let mut unseen = self.unseen(tx, step.events).await?;
        let fresh: Vec<&ReceivedEvent> = step
            .events
            .iter()
            .filter(|received| match received.origin {
                Some(_) if self.versioned => true,
                Some(origin) => watermarks.pass(&Series::of(origin.log, &received.event), origin.sequence),
                None => unseen.remove(&received.event.id),
            })
            .collect();
        if fresh.is_empty() {
            return Ok(Applied { duplicates: step.events.len(), ..Applied::default() });
        }
        let applied = self.handler.handle_all(tx, &fresh).await.map_err(handler_error)?.min(fresh.len());
        let raised = watermarks.raised();
        if !DB::raise(&self.tables, tx, self.name.as_str(), &raised).await.map_err(store_error::<DB>)? {
            return Err(conflict("another partition brought the first event of the same key at the same time"));
        }
        Ok(Applied { applied, duplicates: step.events.len() - fresh.len(), ignored: fresh.len() - applied })
    }

    async fn watermarks(
        &self,
        tx: &mut Transaction<'_, DB>,
        events: &[ReceivedEvent],
    ) -> Result<Watermarks, ProjectionError> {
        let mut watermarks = Watermarks::default();
        if self.versioned {
            return Ok(watermarks);
        }
        for received in events {
            if let Some(origin) = received.origin {
                watermarks.add(Series::of(origin.log, &received.event));
            }
        }
        if !watermarks.is_empty() {
            let found = DB::watermarks(&self.tables, tx, self.name.as_str(), &watermarks).await;
            watermarks.stored(found.map_err(store_error::<DB>)?);
        }
        Ok(watermarks)
    }

    async fn unseen(
        &self,
        tx: &mut Transaction<'_, DB>,
        events: &[ReceivedEvent],
    ) -> Result<HashSet<Uuid>, ProjectionError> {
        let mut ids: Vec<Uuid> = events.iter().filter(|e| e.origin.is_none()).map(|e| e.event.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        DB::unseen(&self.tables, tx, self.name.as_str(), &ids).await.map_err(store_error::<DB>)
    }
}

fn conflict(message: &'static str) -> ProjectionError {
    ProjectionError::new(ProjectionErrorKind::Conflict, message)
}

fn handler_error(error: HandlerError) -> ProjectionError {
    let event = error.event().map_or_else(|| "an event of the step".to_owned(), |id| format!("event {id}"));
    let (kind, message) = match error.kind() {
        HandlerErrorKind::Retry => (ProjectionErrorKind::Unavailable, format!("{event} could not be applied")),
        HandlerErrorKind::Reject => (ProjectionErrorKind::Rejected, format!("{event} was rejected by the handler")),
    };
    ProjectionError::new(kind, message).with_source(error)
}

fn store_error<DB: SqlDatabase>(error: sqlx::Error) -> ProjectionError {
    let (kind, message) = if error.as_database_error().is_some_and(DB::is_missing_table) {
        (ProjectionErrorKind::NotMigrated, "the projector's tables are missing: run SqlProjection::migrate once")
    } else {
        (ProjectionErrorKind::Unavailable, "the projection's database cannot be reached, or refused")
    };
    ProjectionError::new(kind, message).with_source(error)
}

/// In a task of its own, which ends a `BEGIN` that its caller dropped: sqlx 0.9.0 forgets it, and the pool would lend the
/// connection to others in the middle of that transaction (sqlx #4393).
async fn begin<DB: SqlDatabase>(pool: &Pool<DB>) -> Result<Transaction<'static, DB>, ProjectionError> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { DB::begin(&pool).await }).await;
    let stopping = |stopping| {
        ProjectionError::new(ProjectionErrorKind::Unavailable, "the runtime is shutting down").with_source(stopping)
    };
    begun.map_err(stopping)?.map_err(store_error::<DB>)
}
