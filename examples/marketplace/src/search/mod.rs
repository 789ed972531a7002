//! The read model: tutors as they are searched, made from events alone.

mod change;
mod document;
mod letters;
#[cfg(feature = "production")]
pub(crate) mod opensearch;
mod query;
mod routes;
#[cfg(test)]
mod suite;
#[cfg(feature = "embedded")]
pub(crate) mod tantivy;

use async_trait::async_trait;

use change::TutorDocuments;
pub(crate) use document::SearchDocument;
pub(crate) use letters::{Kept, SearchDeadLetters, UnreadableLetter};
pub(crate) use query::SearchQuery;
pub(crate) use routes::routes;

use crate::http::Problem;

/// The name under which projections of this read model keep their place.
pub(crate) const CONSUMER: &str = "search-service";

/// An index of tutors that can be asked. It is written to only by projecting events.
#[async_trait]
pub(crate) trait SearchIndex: Send + Sync {
    /// The documents that match, best first: by score, or without a text by rating; then by id.
    async fn search(&self, query: &SearchQuery) -> Result<Found, SearchError>;

    /// Whether the index can be asked now.
    async fn ping(&self) -> Result<(), SearchError>;
}

/// A page of documents, and how many match in all.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) documents: Vec<SearchDocument>,
    pub(crate) total: u64,
}

/// Why the index could not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SearchError {
    /// It cannot be reached, or not yet.
    #[cfg_attr(not(feature = "production"), expect(dead_code, reason = "an index in our own process is never away"))]
    #[error("the search index cannot be reached")]
    Away(#[source] outbox_core::error::BoxError),
    /// It answered something unexpected.
    #[error("the search index failed")]
    Broken(#[source] outbox_core::error::BoxError),
}

impl From<SearchError> for Problem {
    fn from(error: SearchError) -> Self {
        tracing::warn!(error = outbox_core::error::chain(&error), "a search failed");
        match error {
            SearchError::Away(_) => Self::unavailable("search index"),
            SearchError::Broken(_) => Self::internal(),
        }
    }
}
