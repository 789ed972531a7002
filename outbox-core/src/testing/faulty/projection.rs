use async_trait::async_trait;

use super::cues::{Cues, ON_CUE, When};
use crate::{
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};

/// A projection that fails to apply on cue, and otherwise does what the projection inside does. Clones share the cues.
#[derive(Debug, Clone)]
pub struct FaultyProjection<P> {
    inner: P,
    applies: Cues<(), ProjectionErrorKind>,
}

impl<P> FaultyProjection<P> {
    /// Fails never, until told to.
    #[must_use]
    pub fn new(inner: P) -> Self {
        Self { inner, applies: Cues::default() }
    }

    /// The projection inside, which never fails on cue.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// The next `times` steps fail with this kind and have no effect.
    pub fn fail_next(&self, times: usize, kind: ProjectionErrorKind) {
        self.applies.add((), times, kind, When::Before);
    }

    /// The next `times` steps have their effect and fail with this kind all the same, as when an answer is lost on the
    /// way.
    pub fn fail_after(&self, times: usize, kind: ProjectionErrorKind) {
        self.applies.add((), times, kind, When::After);
    }

    /// How many failures are still to come.
    #[must_use]
    pub fn failures_left(&self) -> usize {
        self.applies.left()
    }
}

#[async_trait]
impl<P: Projection> Projection for FaultyProjection<P> {
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
        self.applies.run((), self.inner.apply(step), |kind| ProjectionError::new(kind, ON_CUE)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        memory::MemoryProjection,
        testing::{Sequencer, event::numbered},
    };

    #[tokio::test]
    async fn fails_with_or_without_effect() {
        let projection = FaultyProjection::new(MemoryProjection::new("suite"));
        let events = [Sequencer::default().receive(numbered("key", 1))];
        let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
        let step = Step::new(&partition, None, &to, &events);
        projection.fail_next(1, ProjectionErrorKind::Unavailable);
        projection.fail_after(1, ProjectionErrorKind::Unavailable);
        for effects in [0, 1] {
            let failed = projection.apply(step).await.expect_err("on cue");
            assert_eq!(failed.kind(), ProjectionErrorKind::Unavailable);
            assert_eq!(projection.inner().len(), effects);
        }
        assert_eq!(projection.failures_left(), 0);
        let conflict = projection.apply(step).await.expect_err("applied already");
        assert_eq!(conflict.kind(), ProjectionErrorKind::Conflict);
    }
}
