//! Projecting into the embedded index: a batch is one commit, and the commit carries the position.

use std::{
    collections::{BTreeMap, HashMap},
    sync::PoisonError,
};

use async_trait::async_trait;
use outbox_core::{
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};
use tantivy::{
    IndexMeta, IndexWriter, Searcher, TantivyDocument, TantivyError, Term, query::TermQuery, schema::IndexRecordOption,
};

use super::{
    super::{CONSUMER, change::Change},
    Fields, Shared, TantivyIndex, Writer,
};
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
impl Projection for TantivyIndex {
    fn name(&self) -> &str {
        CONSUMER
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        ProjectionCapabilities::new(true)
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        Ok(self.0.lock().positions.get(partition))
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let batch = Batch::read(step)?;
        let shared = self.0.clone();
        // Once begun a commit ends, also when the caller is gone; the caller then finds the position moved.
        let applied = tokio::task::spawn_blocking(move || shared.apply(batch));
        applied.await.map_err(|e| unavailable("the indexing thread panicked").with_source(e))?
    }
}

/// A step, owned.
struct Batch {
    partition: Partition,
    from: Option<SourcePosition>,
    to: SourcePosition,
    changes: Vec<Change>,
    ignored: usize,
}

impl Batch {
    fn read(step: Step<'_>) -> Result<Self, ProjectionError> {
        let mut changes = Vec::with_capacity(step.events.len());
        for event in step.events {
            changes.extend(Change::read(event)?);
        }
        Ok(Self {
            partition: step.partition.clone(),
            from: step.from.cloned(),
            to: step.to.clone(),
            ignored: step.events.len() - changes.len(),
            changes,
        })
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Writer> {
        // A panic while writing leaves nothing behind that the next rollback would not undo.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, batch: Batch) -> Result<Applied, ProjectionError> {
        let mut writer = self.lock();
        if writer.positions.get(&batch.partition) != batch.from {
            let message = "the index has moved on from this position already";
            return Err(ProjectionError::new(ProjectionErrorKind::Conflict, message));
        }
        let positions = writer.positions.with(&batch.partition, &batch.to);
        match self.write(&mut writer.index, batch, &positions) {
            Ok(applied) => {
                writer.positions = positions;
                Ok(applied)
            }
            Err(error) => {
                if let Err(error) = writer.index.rollback() {
                    tracing::error!(%error, "the search index could not be rolled back");
                }
                Err(unavailable("the search index cannot be written; is the disk full?").with_source(error))
            }
        }
    }

    fn write(&self, index: &mut IndexWriter, batch: Batch, positions: &Positions) -> Result<Applied, TantivyError> {
        let searcher = self.reader.searcher();
        let mut applied = Applied { ignored: batch.ignored, ..Applied::default() };
        let mut seen: HashMap<i64, u64> = HashMap::new();
        for change in batch.changes {
            let known = match seen.get(&change.id) {
                Some(version) => Some(*version),
                None => indexed_version(&self.fields, &searcher, change.id)?,
            };
            if known.is_some_and(|known| change.version <= known) {
                applied.duplicates += 1;
                continue;
            }
            seen.insert(change.id, change.version);
            index.delete_term(Term::from_field_i64(self.fields.id, change.id));
            index.add_document(indexed(&self.fields, change)?)?;
            applied.applied += 1;
        }
        let mut commit = index.prepare_commit()?;
        commit.set_payload(&serde_json::to_string(&positions.0).map_err(std::io::Error::from)?);
        commit.commit()?;
        self.reader.reload()?;
        Ok(applied)
    }
}

fn indexed_version(fields: &Fields, searcher: &Searcher, id: i64) -> Result<Option<u64>, TantivyError> {
    let query = TermQuery::new(Term::from_field_i64(fields.id, id), IndexRecordOption::Basic);
    let found = searcher.search(&query, &tantivy::collector::TopDocs::with_limit(1).order_by_score())?;
    let Some((_, address)) = found.first() else { return Ok(None) };
    let versions = searcher
        .segment_reader(address.segment_ord)
        .fast_fields()
        .u64(searcher.schema().get_field_name(fields.version))?;
    Ok(versions.first(address.doc_id))
}

/// A deleted tutor stays as a document without content, which no query finds.
fn indexed(fields: &Fields, change: Change) -> Result<TantivyDocument, TantivyError> {
    let mut out = TantivyDocument::new();
    out.add_i64(fields.id, change.id);
    out.add_u64(fields.version, change.version);
    out.add_bool(fields.deleted, change.document.is_none());
    let Some(document) = change.document else { return Ok(out) };
    out.add_bytes(fields.document, &serde_json::to_vec(&document).map_err(std::io::Error::from)?);
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

fn unavailable(message: &'static str) -> ProjectionError {
    ProjectionError::new(ProjectionErrorKind::Unavailable, message)
}
