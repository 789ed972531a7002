//! Writing into the embedded index: a batch is one commit, and the commit carries the position.

use std::{collections::BTreeMap, sync::PoisonError};

use async_trait::async_trait;
use outbox_core::source::{Partition, SourcePosition};
use outbox_projector::external::{Commit, CommitError, PositionedStore, StoreError, StoreErrorKind, VersionedWrite};
use tantivy::{
    IndexMeta, IndexWriter, Searcher, TantivyDocument, TantivyError, Term, query::TermQuery, schema::IndexRecordOption,
};

use super::{super::SearchDocument, Fields, Shared, TantivyIndex, Writer};
use crate::money::{Money, Rating};

/// Partition to position, as the payload of a commit: JSON.
#[derive(Debug, Clone, Default)]
pub(super) struct Positions(BTreeMap<String, String>);

impl Positions {
    pub(super) fn of(meta: &IndexMeta) -> Result<Self, TantivyError> {
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
        Ok(self.0.lock().positions.get(partition))
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<bool>, CommitError> {
        let shared = self.0.clone();
        // Once begun a commit ends, also when the caller is gone; the caller then finds the position moved.
        let committed = tokio::task::spawn_blocking(move || shared.commit(&commit));
        committed.await.map_err(|e| unavailable("the indexing thread panicked").with_source(e))?
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Writer> {
        // A panic while writing leaves nothing behind that the next rollback would not undo.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, commit: &Commit) -> Result<Vec<bool>, CommitError> {
        let documents = indexed_documents(&self.fields, &commit.writes)?;
        let mut writer = self.lock();
        if writer.positions.get(&commit.partition) != commit.from {
            return Err(CommitError::Conflict);
        }
        let positions = writer.positions.with(&commit.partition, &commit.to);
        match self.write(&mut writer.index, &commit.writes, documents, &positions) {
            Ok(stored) => {
                writer.positions = positions;
                Ok(stored)
            }
            Err(error) => {
                if let Err(error) = writer.index.rollback() {
                    tracing::error!(%error, "the search index could not be rolled back");
                }
                Err(unavailable("the search index cannot be written; is the disk full?").with_source(error).into())
            }
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
