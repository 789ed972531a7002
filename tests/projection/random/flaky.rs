use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use outbox_core::{
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};
use rand::{RngExt, rngs::StdRng};

/// A projection of which some steps do not arrive, and some have their effect while the answer is lost.
pub(super) struct Flaky {
    inner: Box<dyn Projection>,
    random: Mutex<StdRng>,
}

impl Flaky {
    pub(super) fn new(inner: Box<dyn Projection>, random: StdRng) -> Self {
        Self { inner, random: Mutex::new(random) }
    }

    fn fails(&self) -> Result<(), ProjectionError> {
        let fails = self.random.lock().unwrap_or_else(PoisonError::into_inner).random_bool(0.08);
        if fails { Err(ProjectionError::new(ProjectionErrorKind::Unavailable, "by chance")) } else { Ok(()) }
    }
}

#[async_trait]
impl Projection for Flaky {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        self.inner.capabilities()
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        self.inner.position(partition).await
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        self.fails()?;
        let applied = self.inner.apply(step).await?;
        self.fails()?;
        Ok(applied)
    }
}
