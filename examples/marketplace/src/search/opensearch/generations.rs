//! The index built anew beside the one in use.
//!
//! Generation `n` is the index `{alias}-v{n}`. Queries go to `{alias}`, which a swap moves in one request together with
//! the aliases that the generations are written through: what still writes to an older one finds no index any more.
//!
//! A swap or a drop does nothing unless its rebuild has the [claim](super::claim), in one step with what it does; nor does
//! the step that retires a generation that was being built, by taking the alias away that it is written through. An index
//! is made behind a look at the claim, in two steps: a rebuild that was frozen in between may make one, empty, which the
//! next rebuild goes on with. Its number stands with the claim by then, and is not used again when it is gone: that index,
//! `{alias}-claim`, is to be kept for as long as there are consumers with such numbers in their names.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use opensearch::http::Method;
use outbox_core::projection::Projection;
use outbox_projector::{
    external::{StoreError, VersionedProjection, VersionedStore, VersionedWrite, Written},
    rebuild::{Generation, Generations, RebuildError, RebuildErrorKind, Stage, State},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{CallError, OpenSearchIndex, claim::where_it_stands, mapping, write};
use crate::search::{CONSUMER, TutorDocuments};

/// One generation, as a store.
pub(super) struct OneGeneration {
    index: OpenSearchIndex,
    generation: Generation,
}

/// What the indexes and their aliases say.
struct Known {
    live: Generation,
    /// Those that are written and were never live.
    being_built: Vec<Generation>,
    /// The highest number that was ever used.
    highest: Generation,
    /// Those of which there is an index.
    all: Vec<Generation>,
}

#[async_trait]
impl VersionedStore for OneGeneration {
    async fn write(&self, writes: &[VersionedWrite]) -> Result<Vec<Written>, StoreError> {
        write::write(&self.index, &self.index.written_through(self.generation), writes).await
    }
}

#[async_trait]
impl Generations for OpenSearchIndex {
    fn name(&self) -> &str {
        &self.0.alias
    }

    async fn state(&self) -> Result<State, RebuildError> {
        let Known { live, being_built, highest, .. } = self.known().await?;
        Ok(State { live, building: being_built.into_iter().max(), next: highest.next() })
    }

    async fn before(&self, generation: Generation) -> Result<Vec<Generation>, RebuildError> {
        Ok(self.known().await?.all.into_iter().filter(|known| *known < generation).collect())
    }

    async fn claim(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        self.take_claim(rebuild, lease).await
    }

    async fn renew(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        self.renew_claim(rebuild, lease).await
    }

    async fn release(&self, rebuild: Uuid) -> Result<(), RebuildError> {
        self.end_claim(rebuild).await
    }

    async fn prepare(&self, generation: Generation, rebuild: Option<Uuid>) -> Result<Stage, RebuildError> {
        if generation == Generation::FIRST {
            OpenSearchIndex::prepare(self).await.map_err(store_error)?;
        }
        if let Some(rebuild) = rebuild {
            self.check_claim(rebuild).await?;
        }
        // Behind the claim: whoever had it before swaps no more.
        let Known { live, being_built, highest, .. } = self.known().await?;
        if generation == live {
            return Ok(Stage::Live);
        }
        if being_built.contains(&generation) {
            return Ok(Stage::Building);
        }
        if generation <= highest {
            let message = format!("generation {generation} of {} is retired and cannot be built again", self.0.alias);
            // By a rebuild that was under way when this one looked: the next look finds another to go on with.
            let is_news = rebuild.is_some() && generation > live;
            let kind = if is_news { RebuildErrorKind::Unavailable } else { RebuildErrorKind::Store };
            return Err(RebuildError::new(kind, message));
        }
        let Some(rebuild) = rebuild else {
            let message =
                format!("generation {generation} of {} is not there, and only a rebuild makes it", self.0.alias);
            return Err(RebuildError::new(RebuildErrorKind::Store, message));
        };
        if !being_built.is_empty() {
            let written = being_built.into_iter().map(|begun| (self.index_of(begun), self.written_through(begun)));
            let retire = written.map(|(index, alias)| json!({ "remove": { "index": index, "alias": alias } }));
            self.change(rebuild, retire.collect()).await?;
        }
        self.note_number(generation, rebuild).await?;
        let index = self.index_of(generation);
        let aliases = json!({ (self.written_through(generation)): {} });
        let definition = mapping::definition(&aliases, self.0.log);
        match self.0.client.call(Method::Put, &format!("/{index}"), Some(definition)).await {
            Ok(_) => Ok(Stage::Building),
            // Another process was quicker.
            Err(_) if !self.ask(&format!("/{index}/_alias")).await?.is_null() => Ok(Stage::Building),
            Err(error) => Err(store_error(error)),
        }
    }

    fn projection(&self, generation: Generation, _stage: Stage) -> Arc<dyn Projection> {
        let store = self.generation(generation);
        let documents = TutorDocuments::of(self.0.log);
        Arc::new(VersionedProjection::builder(generation.name(CONSUMER), store, documents).build())
    }

    async fn swap(&self, to: Generation, rebuild: Uuid) -> Result<(), RebuildError> {
        // Whatever was written is found from the first query on.
        self.call(Method::Post, &format!("/{}/_refresh", self.index_of(to)), None).await?;
        // One that was retired is written no more.
        let mut actions = where_it_stands(&self.index_of(to), &self.written_through(to)).to_vec();
        actions.push(json!({ "add": { "index": self.index_of(to), "alias": self.0.alias } }));
        for old in self.before(to).await? {
            let aliases = [&self.0.alias, &self.written_through(old)];
            actions.push(json!({ "remove": { "index": self.index_of(old), "aliases": aliases, "must_exist": false } }));
        }
        self.change(rebuild, actions).await
    }

    async fn discard(&self, generation: Generation, rebuild: Uuid) -> Result<(), RebuildError> {
        let index = self.index_of(generation);
        let is_gone = self.ask(&format!("/{index}/_alias")).await?.is_null();
        if is_gone || self.behind(&self.0.alias).await?.contains(&generation) {
            return self.check_claim(rebuild).await;
        }
        self.change(rebuild, vec![json!({ "remove_index": { "index": index } })]).await
    }
}

impl OpenSearchIndex {
    pub(super) fn generation(&self, generation: Generation) -> OneGeneration {
        OneGeneration { index: self.clone(), generation }
    }

    async fn known(&self) -> Result<Known, RebuildError> {
        let indexes = self.ask(&format!("/{}-v*/_alias", self.0.alias)).await?;
        let all = self.generations(&indexes);
        let has = |generation, alias: &str| indexes[self.index_of(generation)]["aliases"].get(alias).is_some();
        let live = all.iter().copied().filter(|known| has(*known, &self.0.alias)).max().unwrap_or(Generation::FIRST);
        let is_written = |known: &Generation| *known > live && has(*known, &self.written_through(*known));
        let being_built = all.iter().copied().filter(is_written).collect();
        let noted = self.highest_number().await?;
        let highest = all.iter().copied().chain(noted).max().unwrap_or(live).max(live);
        Ok(Known { live, being_built, highest, all })
    }

    /// The generations that an alias, or several by a pattern, stand for.
    async fn behind(&self, alias: &str) -> Result<Vec<Generation>, RebuildError> {
        Ok(self.generations(&self.ask(&format!("/_alias/{alias}")).await?))
    }

    /// The keys of an answer that are indexes of ours.
    fn generations(&self, answer: &Value) -> Vec<Generation> {
        let number = |index: &String| {
            let number = index.strip_prefix(&self.0.alias)?.strip_prefix("-v")?.parse().ok()?;
            Generation::new(number)
        };
        answer.as_object().into_iter().flat_map(|indexes| indexes.keys().filter_map(number)).collect()
    }

    /// Null when there is no such thing.
    pub(super) async fn ask(&self, path: &str) -> Result<Value, RebuildError> {
        match self.0.client.call(Method::Get, path, None).await {
            Err(missing) if missing.status() == Some(404) => Ok(Value::Null),
            answer => answer.map_err(store_error),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<(), RebuildError> {
        self.0.client.call(method, path, body).await.map(drop).map_err(store_error)
    }
}

pub(super) fn store_error(error: CallError) -> RebuildError {
    let message = "OpenSearch did not do what a rebuild of the search index needs; run it again to go on";
    let kind = if error.is_away() { RebuildErrorKind::Unavailable } else { RebuildErrorKind::Store };
    RebuildError::new(kind, message).with_source(error)
}
