//! What dead letters are replayed into.

use anyhow::{Context, ensure};
use outbox_projector::{
    dead_letters::Replayable,
    external::VersionedProjection,
    rebuild::{Generations, State},
};

use super::OpenSearchIndex;
use crate::search::{CONSUMER, TutorDocuments};

impl OpenSearchIndex {
    /// What writes into the index in use. One that is being built anew reads the events of its letters by itself.
    ///
    /// # Errors
    /// When there is no index yet, or it was made from another log.
    pub(crate) async fn live(&self) -> anyhow::Result<impl Replayable + use<>> {
        let cannot = "the search index cannot be asked which one is in use";
        let alias = &self.0.alias;
        let is_missing = self.ask(&format!("/_alias/{alias}")).await.context(cannot)?.is_null();
        ensure!(!is_missing, "there is no search index {alias}: start the marketplace once, its events come again");
        OpenSearchIndex::prepare(self).await.context(cannot)?;
        let State { live, .. } = self.state().await.context(cannot)?;
        let documents = TutorDocuments::of(self.0.log);
        Ok(VersionedProjection::builder(live.name(CONSUMER), self.generation(live), documents).build())
    }
}
