//! What dead letters are replayed into.

use outbox_projector::{
    dead_letters::Replayable,
    external::VersionedProjection,
    rebuild::{Generations, RebuildError, State},
};

use super::OpenSearchIndex;
use crate::search::{CONSUMER, TutorDocuments};

impl OpenSearchIndex {
    /// What writes into the index in use. One that is being built anew reads the events of its letters by itself.
    pub(crate) async fn live(&self) -> Result<impl Replayable + use<>, RebuildError> {
        let State { live, .. } = self.state().await?;
        let documents = TutorDocuments::of(self.0.log);
        Ok(VersionedProjection::builder(live.name(CONSUMER), self.generation(live), documents).build())
    }
}
