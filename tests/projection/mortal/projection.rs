use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, Step},
    source::{Partition, SourcePosition},
};

use super::{Failpoint, Fuse};

/// A projection whose process dies when it looked a position up, or when a step is there and nobody was told.
pub(crate) struct MortalProjection {
    inner: Arc<dyn Projection>,
    fuse: Fuse,
}

impl MortalProjection {
    pub(crate) fn new(inner: Arc<dyn Projection>, fuse: Fuse) -> Self {
        Self { inner, fuse }
    }
}

#[async_trait]
impl Projection for MortalProjection {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        self.inner.capabilities()
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        let position = self.inner.position(partition).await?;
        self.fuse.pass(Failpoint::AfterLookUp);
        Ok(position)
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let applied = self.inner.apply(step).await?;
        if applied.applied > 0 {
            self.fuse.pass(Failpoint::AfterCommit);
            self.fuse.had_effect();
        }
        Ok(applied)
    }
}
