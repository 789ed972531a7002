//! Dead letters of projections into stores of documents, applied after all.

use async_trait::async_trait;
use outbox_core::projection::{Applied, Projection, ProjectionError, ProjectionErrorKind};

use super::{Documents, PositionedProjection, PositionedStore, VersionedProjection, VersionedStore, newest::Newest};
use crate::{
    dead_letters::{ReadLetter, Replayable},
    runner::guarded,
};

/// A letter that the store has a newer version of counts as a duplicate. Steps of projectors that run meanwhile, also those
/// of this very projection, go on as if nothing happened.
#[async_trait]
impl<S: VersionedStore, D: Documents> Replayable for VersionedProjection<S, D> {
    async fn apply_letter(&self, letter: &ReadLetter<'_>) -> Result<Applied, ProjectionError> {
        self.write_alone(&letter.event).await
    }

    async fn try_letters(&self, letters: &[ReadLetter<'_>]) -> Vec<Result<Applied, ProjectionError>> {
        changes(&self.documents, letters).await
    }
}

/// A letter is a commit that leaves the position of its partition where it stands. A store that has no position of it has
/// not been there yet: the letter fails. It is one of an earlier store then, and the projector brings the event again.
#[async_trait]
impl<S: PositionedStore, D: Documents> Replayable for PositionedProjection<S, D> {
    async fn apply_letter(&self, letter: &ReadLetter<'_>) -> Result<Applied, ProjectionError> {
        let failed = |message: String| Err(ProjectionError::new(ProjectionErrorKind::Failed, message));
        let Some(partition) = letter.letter.partition() else {
            return failed(format!("the letter's place, {:?}, names no partition", letter.letter.place));
        };
        let Some(position) = self.position(&partition).await? else {
            return failed(format!(
                "the store has not read {partition} yet: run its projector, which brings the event again"
            ));
        };
        let newest = Newest::of(&self.documents, std::slice::from_ref(&letter.event))?;
        self.commit(&partition, Some(&position), &position, newest).await
    }

    async fn try_letters(&self, letters: &[ReadLetter<'_>]) -> Vec<Result<Applied, ProjectionError>> {
        changes(&self.documents, letters).await
    }
}

/// What the events mean, without asking the store.
async fn changes(documents: &impl Documents, letters: &[ReadLetter<'_>]) -> Vec<Result<Applied, ProjectionError>> {
    let mut tried = Vec::with_capacity(letters.len());
    for letter in letters {
        let change = guarded(async { Newest::of(documents, std::slice::from_ref(&letter.event)) }).await;
        let fails = change.is_err();
        tried.push(change.map(|newest| {
            let mut would = newest.counted;
            newest.behind.iter().for_each(|behind| behind.count(true, &mut would));
            would
        }));
        if fails {
            break;
        }
    }
    tried
}
