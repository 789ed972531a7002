//! Writing into the embedded index: a batch is one commit, and the commit carries the position.

use std::{
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError},
};

use async_trait::async_trait;
use outbox_core::source::{Partition, SourcePosition};
use outbox_projector::external::{Commit, CommitError, PositionedStore, StoreError, StoreErrorKind, VersionedWrite};
use tantivy::{
    Index, IndexMeta, IndexReader, IndexWriter, Searcher, TantivyDocument, TantivyError, Term, query::TermQuery,
    schema::IndexRecordOption,
};

use super::{super::SearchDocument, Fields, Shared, TantivyIndex};
use crate::money::{Money, Rating};

pub(super) struct Writer {
    index: IndexWriter,
    /// As of the last commit.
    positions: Positions,
}

/// Enough for one thread's batch; tantivy's least is 15 MB.
const WRITER_MEMORY_BYTES: usize = 30_000_000;

impl Writer {
    /// One that stands, as the reader then does, where the last commit left the index.
    pub(super) fn open(index: &Index, reader: &IndexReader) -> Result<Self, TantivyError> {
        let positions = Positions::of(&index.load_metas()?)?;
        let writer = index.writer_with_num_threads(1, WRITER_MEMORY_BYTES)?;
        reader.reload()?;
        Ok(Self { index: writer, positions })
    }
}

/// Partition to position, as the payload of a commit: JSON.
#[derive(Debug, Clone, Default)]
struct Positions(BTreeMap<String, String>);

impl Positions {
    fn of(meta: &IndexMeta) -> Result<Self, TantivyError> {
        let Some(payload) = &meta.payload else { return Ok(Self::default()) };
        let positions = serde_json::from_str(payload);
        positions.map(Self).map_err(|e| TantivyError::InternalError(format!("the commit's payload is unreadable: {e}")))
    }

    fn get(&self, partition: &Partition) -> Option<SourcePosition> {
        self.0.get(partition.as_str()).map(|text| SourcePosition::from_text(text.as_str()))
    }

    fn with(&self, partition: &Partition, to: &SourcePosition) -> Self {
        let mut moved = self.clone();
        moved.0.insert(partition.as_str().to_owned(), to.as_text().to_owned());
        moved
    }
}

#[async_trait]
impl PositionedStore for TantivyIndex {
    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, StoreError> {
        let (shared, partition) = (self.0.clone(), partition.clone());
        let asked = tokio::task::spawn_blocking(move || shared.position(&partition));
        asked.await.map_err(|e| unavailable("the indexing thread panicked").with_source(e))?
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<bool>, CommitError> {
        let shared = self.0.clone();
        // Once begun a commit ends, also when the caller is gone; the caller then finds the position moved.
        let committed = tokio::task::spawn_blocking(move || shared.commit(&commit));
        committed.await.map_err(|e| unavailable("the indexing thread panicked").with_source(e))?
    }
}

impl Shared {
    fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, StoreError> {
        let mut kept = self.lock();
        let writer = self.take_writer(&mut kept)?;
        let position = writer.positions.get(partition);
        *kept = Some(writer);
        Ok(position)
    }

    fn commit(&self, commit: &Commit) -> Result<Vec<bool>, CommitError> {
        let documents = indexed_documents(&self.fields, &commit.writes)?;
        let mut kept = self.lock();
        let mut writer = self.take_writer(&mut kept)?;
        if writer.positions.get(&commit.partition) != commit.from {
            *kept = Some(writer);
            return Err(CommitError::Conflict);
        }
        let positions = writer.positions.with(&commit.partition, &commit.to);
        // A writer that failed may hold half of the step, or may have committed all of it, and one that cannot roll back
        // never commits again. So it is dropped, with what was not committed.
        let stored = self
            .write(&mut writer.index, &commit.writes, documents, &positions)
            .map_err(|e| unavailable("the search index cannot be written; is the disk full?").with_source(e))?;
        *kept = Some(Writer { positions, ..writer });
        Ok(stored)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        // A panic takes the writer with it, so there is nothing half done behind the lock.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever takes the writer puts it back only if all went well.
    fn take_writer(&self, kept: &mut Option<Writer>) -> Result<Writer, StoreError> {
        match kept.take() {
            Some(writer) => Ok(writer),
            None => Writer::open(&self.index, &self.reader)
                .map_err(|e| unavailable("the search index cannot be opened for writing").with_source(e)),
        }
    }

    fn write(
        &self,
        index: &mut IndexWriter,
        writes: &[VersionedWrite],
        documents: Vec<TantivyDocument>,
        positions: &Positions,
    ) -> Result<Vec<bool>, TantivyError> {
        let searcher = self.reader.searcher();
        let mut stored = Vec::with_capacity(writes.len());
        for (write, document) in writes.iter().zip(documents) {
            let known = indexed_version(&self.fields, &searcher, &write.id)?;
            let newer = known.is_none_or(|known| write.version > known);
            if newer {
                index.delete_term(Term::from_field_text(self.fields.key, &write.id));
                index.add_document(document)?;
            }
            stored.push(newer);
        }
        let mut commit = index.prepare_commit()?;
        commit.set_payload(&serde_json::to_string(&positions.0).map_err(std::io::Error::from)?);
        commit.commit()?;
        self.reader.reload()?;
        Ok(stored)
    }
}

fn indexed_version(fields: &Fields, searcher: &Searcher, id: &str) -> Result<Option<u64>, TantivyError> {
    let query = TermQuery::new(Term::from_field_text(fields.key, id), IndexRecordOption::Basic);
    let found = searcher.search(&query, &tantivy::collector::TopDocs::with_limit(1).order_by_score())?;
    let Some((_, address)) = found.first() else { return Ok(None) };
    let versions = searcher
        .segment_reader(address.segment_ord)
        .fast_fields()
        .u64(searcher.schema().get_field_name(fields.version))?;
    Ok(versions.first(address.doc_id))
}

fn indexed_documents(fields: &Fields, writes: &[VersionedWrite]) -> Result<Vec<TantivyDocument>, CommitError> {
    let indexed = |(index, write)| {
        indexed(fields, write).map_err(|error| CommitError::Refused { write: index, reason: error.to_string() })
    };
    writes.iter().enumerate().map(indexed).collect()
}

/// A deleted tutor stays as a document without content, which no query finds.
fn indexed(fields: &Fields, write: &VersionedWrite) -> Result<TantivyDocument, serde_json::Error> {
    let mut out = TantivyDocument::new();
    out.add_text(fields.key, &write.id);
    out.add_u64(fields.version, write.version);
    out.add_bool(fields.deleted, write.document.is_none());
    let Some(json) = &write.document else { return Ok(out) };
    let document: SearchDocument = serde_json::from_slice(json)?;
    out.add_bytes(fields.document, json);
    out.add_i64(fields.id, document.id);
    for (field, text) in fields.texts.iter().zip([&document.full_name, &document.headline, &document.bio]) {
        out.add_text(field.stemmed, text);
        out.add_text(field.plain, text);
    }
    for subject in &document.subjects {
        out.add_text(fields.subjects, subject);
    }
    for format in &document.formats {
        out.add_text(fields.formats, format);
    }
    out.add_text(fields.location, &document.location);
    // What is out of range was never written by this application; it is found, but by no price or rating.
    if let Some(rate) = Money::from_number(document.hourly_rate) {
        out.add_i64(fields.hourly_rate, rate.hundredths());
    }
    if let Some(rating) = Rating::from_number(document.rating) {
        out.add_i64(fields.rating, rating.hundredths());
    }
    Ok(out)
}

fn unavailable(message: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, message)
}
