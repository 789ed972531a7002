use async_trait::async_trait;
use outbox_core::projection::DeadLetter;
use outbox_projector::dead_letters::{DeadLetters, DeadLettersError};

use super::{Failpoint, Fuse};

/// A place for dead letters whose process dies before or after it stored some.
pub(crate) struct MortalLetters<L> {
    inner: L,
    fuse: Fuse,
}

impl<L> MortalLetters<L> {
    pub(crate) fn new(inner: L, fuse: Fuse) -> Self {
        Self { inner, fuse }
    }
}

#[async_trait]
impl<L: DeadLetters> DeadLetters for MortalLetters<L> {
    async fn store(&self, projection: &str, letters: &[DeadLetter]) -> Result<(), DeadLettersError> {
        self.fuse.pass(Failpoint::BeforeLetter);
        self.inner.store(projection, letters).await?;
        self.fuse.pass(Failpoint::AfterLetter);
        Ok(())
    }
}
