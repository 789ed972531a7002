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
use tantivy::{Index, IndexReader, ReloadPolicy, TantivyError};

use self::{
    directory::{Misfit, Opened},
    fields::Fields,
    write::Writer,
};
use super::{CONSUMER, Found, SearchError, SearchIndex, SearchQuery, TutorDocuments};

/// Cloning shares the index.
#[derive(Clone)]
pub(crate) struct TantivyIndex(Arc<Shared>);

struct Shared {
    fields: Fields,
    index: Index,
    reader: IndexReader,
    /// `None` after a failure: the next step opens it anew, from what was committed.
    writer: Mutex<Option<Writer>>,
    log: LogId,
    incarnation: String,
}

impl TantivyIndex {
    /// Opens the index of a log, or begins a new one: when there is none, when it was made by a version of this
    /// program that indexed differently, or when it is of another log.
    pub(crate) fn open(directory: &Path, log: LogId) -> Result<Self, TantivyError> {
        Self::of(directory::open(directory, log)?, log)
    }

    /// Opens the index of a log as [`open`](Self::open) does, but begins none: what does not fit stays as it is.
    pub(crate) fn open_fitting(directory: &Path, log: LogId) -> Result<Self, Misfit> {
        Self::of(directory::open_fitting(directory, log)?, log).map_err(Misfit::Unreadable)
    }

    fn of(opened: Opened, log: LogId) -> Result<Self, TantivyError> {
        let Opened { index, incarnation } = opened;
        let fields = Fields::of(&index.schema())?;
        fields::register_analyzers(&index);
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        let writer = Mutex::new(Some(Writer::open(&index, &reader)?));
        Ok(Self(Arc::new(Shared { fields, index, reader, writer, log, incarnation })))
    }

    /// What keeps the index as its log has it. It has the consumer's name, and so have its dead letters: a new index
    /// reads their events again.
    pub(crate) fn projection(&self) -> PositionedProjection<Self, TutorDocuments> {
        PositionedProjection::new(self.name(), self.clone(), TutorDocuments::of(self.0.log))
    }

    /// The consumer of the log that feeds this index. A new index is a new consumer: it begins at the log's first
    /// event, whatever an earlier index had read.
    pub(crate) fn consumer(&self) -> Result<ConsumerName, LogError> {
        ConsumerName::parse(self.name())
    }

    fn name(&self) -> String {
        format!("{CONSUMER}.{}", self.0.incarnation)
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
mod faults;
#[cfg(test)]
mod suites;
#[cfg(test)]
mod tests;
