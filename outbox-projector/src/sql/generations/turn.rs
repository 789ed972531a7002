//! A claim beside steps that follow each other, where a database has one writer at a time.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, Step},
    source::{Partition, SourcePosition},
};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Whose turn it is to write. Steps and the pieces of a discard share theirs, and begin none while a claim waits: SQLite
/// lets those that wait for its lock in by chance, so that a claim beside a rebuild at work would wait for hundreds of
/// steps.
#[derive(Clone, Default)]
pub(super) struct Turn(Arc<RwLock<()>>);

impl Turn {
    pub(super) async fn of_claim(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.write().await
    }

    /// As a step takes it.
    pub(super) async fn of_change(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read().await
    }

    pub(super) fn taken_by(&self, projection: Arc<dyn Projection>) -> Arc<dyn Projection> {
        Arc::new(TakesTurns { projection, turn: self.clone() })
    }
}

struct TakesTurns {
    projection: Arc<dyn Projection>,
    turn: Turn,
}

#[async_trait]
impl Projection for TakesTurns {
    fn name(&self) -> &str {
        self.projection.name()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        self.projection.capabilities()
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        self.projection.position(partition).await
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let _turn = self.turn.of_change().await;
        self.projection.apply(step).await
    }
}
