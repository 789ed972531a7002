//! The index built anew beside the one in use.
//!
//! Generation `n` is the index `{alias}-v{n}`. Queries go to `{alias}`, which a swap moves in one request together with
//! the aliases that the generations are written through: what still writes to an older one finds no index any more.

use std::sync::Arc;

use async_trait::async_trait;
use opensearch::http::Method;
use outbox_core::projection::Projection;
use outbox_projector::{
    external::{StoreError, VersionedProjection, VersionedStore, VersionedWrite, Written},
    rebuild::{Generation, Generations, RebuildError, RebuildErrorKind, Stage, State},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{CallError, OpenSearchIndex, mapping, write};
use crate::search::{CONSUMER, TutorDocuments};

/// One generation, as a store.
pub(super) struct OneGeneration {
    index: OpenSearchIndex,
    generation: Generation,
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
        let live = self.behind(&self.0.alias).await?.into_iter().max().unwrap_or(Generation::FIRST);
        let written = self.behind(&format!("{}-v*-write", self.0.alias)).await?;
        Ok(State { live, building: written.into_iter().filter(|generation| *generation > live).max() })
    }

    async fn before(&self, generation: Generation) -> Result<Vec<Generation>, RebuildError> {
        let indexes = format!("/{}-v*/_alias", self.0.alias);
        let all = self.ask(&indexes).await?;
        Ok(self.generations(&all).into_iter().filter(|known| *known < generation).collect())
    }

    async fn prepare(&self, generation: Generation, _rebuild: Option<Uuid>) -> Result<(), RebuildError> {
        if generation == Generation::FIRST {
            return OpenSearchIndex::prepare(self).await.map_err(store_error);
        }
        let index = self.index_of(generation);
        if !self.ask(&format!("/{index}/_alias")).await?.is_null() {
            return Ok(());
        }
        let aliases = json!({ (self.written_through(generation)): {} });
        let definition = mapping::definition(&aliases, self.0.log);
        match self.0.client.call(Method::Put, &format!("/{index}"), Some(definition)).await {
            Ok(_) => Ok(()),
            // Another process was quicker.
            Err(_) if !self.ask(&format!("/{index}/_alias")).await?.is_null() => Ok(()),
            Err(error) => Err(store_error(error)),
        }
    }

    fn projection(&self, generation: Generation, _stage: Stage) -> Arc<dyn Projection> {
        let store = self.generation(generation);
        let documents = TutorDocuments::of(self.0.log);
        Arc::new(VersionedProjection::builder(generation.name(CONSUMER), store, documents).build())
    }

    async fn swap(&self, to: Generation, _rebuild: Uuid) -> Result<(), RebuildError> {
        // Whatever was written is found from the first query on.
        self.call(Method::Post, &format!("/{}/_refresh", self.index_of(to)), None).await?;
        let mut actions = vec![json!({ "add": { "index": self.index_of(to), "alias": self.0.alias } })];
        for old in self.before(to).await? {
            let aliases = [&self.0.alias, &self.written_through(old)];
            actions.push(json!({ "remove": { "index": self.index_of(old), "aliases": aliases, "must_exist": false } }));
        }
        self.call(Method::Post, "/_aliases", Some(json!({ "actions": actions }))).await
    }

    async fn discard(&self, generation: Generation, _rebuild: Uuid) -> Result<(), RebuildError> {
        let path = format!("/{}?ignore_unavailable=true", self.index_of(generation));
        self.call(Method::Delete, &path, None).await
    }
}

impl OpenSearchIndex {
    pub(super) fn generation(&self, generation: Generation) -> OneGeneration {
        OneGeneration { index: self.clone(), generation }
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
    async fn ask(&self, path: &str) -> Result<Value, RebuildError> {
        match self.0.client.call(Method::Get, path, None).await {
            Err(missing) if missing.status() == Some(404) => Ok(Value::Null),
            answer => answer.map_err(store_error),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<(), RebuildError> {
        self.0.client.call(method, path, body).await.map(drop).map_err(store_error)
    }
}

fn store_error(error: CallError) -> RebuildError {
    let message = "OpenSearch did not do what a rebuild of the search index needs; run it again to go on";
    let kind = if error.is_away() { RebuildErrorKind::Unavailable } else { RebuildErrorKind::Store };
    RebuildError::new(kind, message).with_source(error)
}
