//! The embedded index: tantivy in a directory. Its commits carry the projection's position, so that effects and
//! position are there together or not at all.

mod ask;
mod directory;
mod fields;
mod write;

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use outbox_core::{
    event::LogId,
    log::{ConsumerName, LogError},
};
use outbox_projector::external::PositionedProjection;
use tantivy::{IndexReader, IndexWriter, ReloadPolicy, TantivyError};

use self::{fields::Fields, write::Positions};
use super::{CONSUMER, Found, SearchError, SearchIndex, SearchQuery, TutorDocuments};

/// Cloning shares the index.
#[derive(Clone)]
pub(crate) struct TantivyIndex(Arc<Shared>);

struct Shared {
    fields: Fields,
    reader: IndexReader,
    writer: Mutex<Writer>,
    log: LogId,
    incarnation: String,
}

struct Writer {
    index: IndexWriter,
    /// As of the last commit.
    positions: Positions,
}

/// Enough for one thread's batch; tantivy's least is 15 MB.
const WRITER_MEMORY_BYTES: usize = 30_000_000;

impl TantivyIndex {
    /// Opens the index of a log, or begins a new one: when there is none, when it was made by a version of this
    /// program that indexed differently, or when it is of another log.
    pub(crate) fn open(directory: &Path, log: LogId) -> Result<Self, TantivyError> {
        let opened = directory::open(directory, log)?;
        let fields = Fields::of(&opened.index.schema())?;
        fields::register_analyzers(&opened.index);
        let positions = Positions::of(&opened.index.load_metas()?)?;
        let reader = opened.index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        let writer = opened.index.writer_with_num_threads(1, WRITER_MEMORY_BYTES)?;
        let writer = Mutex::new(Writer { index: writer, positions });
        Ok(Self(Arc::new(Shared { fields, reader, writer, log, incarnation: opened.incarnation })))
    }

    /// What keeps the index as its log has it.
    pub(crate) fn projection(&self) -> PositionedProjection<Self, TutorDocuments> {
        PositionedProjection::new(CONSUMER, self.clone(), TutorDocuments::of(self.0.log))
    }

    /// The consumer of the log that feeds this index. A new index is a new consumer: it begins at the log's first
    /// event, whatever an earlier index had read.
    pub(crate) fn consumer(&self) -> Result<ConsumerName, LogError> {
        ConsumerName::parse(format!("{CONSUMER}.{}", self.0.incarnation))
    }
}

#[async_trait]
impl SearchIndex for TantivyIndex {
    async fn search(&self, query: &SearchQuery) -> Result<Found, SearchError> {
        let (shared, query) = (self.0.clone(), query.clone());
        let asked = tokio::task::spawn_blocking(move || ask::ask(&shared.fields, &shared.reader.searcher(), &query));
        match asked.await {
            Ok(found) => found.map_err(|e| SearchError::Broken(e.into())),
            Err(panicked) => Err(SearchError::Broken(panicked.into())),
        }
    }

    async fn ping(&self) -> Result<(), SearchError> {
        Ok(())
    }
}

#[cfg(test)]
mod suites;
#[cfg(test)]
mod tests;
