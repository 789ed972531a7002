//! The index in OpenSearch, written to by any number of processes: every document carries its event's sequence as
//! version, so that neither a late duplicate nor a slow process overwrites what is newer.

mod ask;
mod claim;
mod client;
mod generations;
mod letters;
mod mapping;
mod write;

use std::sync::Arc;

use async_trait::async_trait;
use opensearch::http::Method;
use outbox_core::event::LogId;
use outbox_projector::rebuild::Generation;
use serde_json::json;
use tokio::sync::OnceCell;

use self::client::{CallError, Client};
use super::{Found, SearchError, SearchIndex, SearchQuery};

/// Cloning shares the connections.
#[derive(Clone)]
pub(crate) struct OpenSearchIndex(Arc<Shared>);

struct Shared {
    client: Client,
    /// Readers and writers know only the alias, so that an index made anew can take its place at once.
    alias: String,
    log: LogId,
    prepared: OnceCell<()>,
}

impl OpenSearchIndex {
    /// Connects to nothing yet: the index is made, or checked, before it is used for the first time.
    ///
    /// # Errors
    /// When the address is none.
    pub(crate) fn new(url: &str, alias: &str, log: LogId) -> anyhow::Result<Self> {
        let client = Client::new(url)?;
        Ok(Self(Arc::new(Shared { client, alias: alias.to_owned(), log, prepared: OnceCell::new() })))
    }

    fn index_of(&self, generation: Generation) -> String {
        format!("{}-v{generation}", self.0.alias)
    }

    /// The alias that a generation is written through.
    fn written_through(&self, generation: Generation) -> String {
        format!("{}-v{generation}-write", self.0.alias)
    }

    /// Makes index and alias if they are missing.
    ///
    /// # Errors
    /// When OpenSearch is away, or the index there was made from another log: then versions say nothing.
    pub(crate) async fn prepare(&self) -> Result<(), CallError> {
        let Shared { client, alias, log, prepared } = &*self.0;
        let first = self.index_of(Generation::FIRST);
        let aliases = json!({ (alias): {}, (self.written_through(Generation::FIRST)): {} });
        prepared.get_or_try_init(|| mapping::prepare(client, alias, &first, &aliases, *log)).await.copied()
    }
}

#[async_trait]
impl SearchIndex for OpenSearchIndex {
    async fn search(&self, query: &SearchQuery) -> Result<Found, SearchError> {
        self.prepare().await?;
        Ok(ask::ask(&self.0.client, &self.0.alias, query).await?)
    }

    async fn ping(&self) -> Result<(), SearchError> {
        let path = format!("/{}", self.0.alias);
        self.0.client.call(Method::Head, &path, None).await?;
        Ok(())
    }
}

impl From<CallError> for SearchError {
    fn from(error: CallError) -> Self {
        if error.is_away() { Self::Away(error.into()) } else { Self::Broken(error.into()) }
    }
}

#[cfg(test)]
mod claims;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod rebuild;
#[cfg(test)]
mod suites;
#[cfg(test)]
mod tests;
