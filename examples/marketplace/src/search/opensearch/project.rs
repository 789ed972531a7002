//! Projecting into OpenSearch: versioned writes, so that repeating a batch is harmless and the source's own commit
//! can keep the position.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use opensearch::{BulkOperation, BulkOperations, params::VersionType};
use outbox_core::{
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    super::{CONSUMER, SearchDocument, change::Change},
    CallError, OpenSearchIndex,
    client::reason,
};

/// Documents that OpenSearch could not take at the moment are offered again after these, and then with the whole step.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

#[async_trait]
impl Projection for OpenSearchIndex {
    fn name(&self) -> &str {
        CONSUMER
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        ProjectionCapabilities::new(false)
    }

    async fn position(&self, _: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        Ok(None)
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let mut applied = Applied::default();
        // Of several changes of one document only the last counts; the others would only be overwritten.
        let mut left: BTreeMap<i64, Change> = BTreeMap::new();
        for event in step.events {
            // Sequences of another log say nothing of this one's: a topic may outlive the database it was written from.
            if let Some(origin) = event.origin.filter(|origin| origin.log != self.0.log) {
                tracing::warn!(log = %origin.log, id = %event.event.id, "an event of another log is passed over");
                applied.ignored += 1;
                continue;
            }
            let Some(change) = Change::read(event)? else {
                applied.ignored += 1;
                continue;
            };
            match left.get(&change.id) {
                Some(newer) if newer.version >= change.version => applied.duplicates += 1,
                older => {
                    applied.applied += usize::from(older.is_some());
                    left.insert(change.id, change);
                }
            }
        }
        if !left.is_empty() {
            self.prepare().await.map_err(failed)?;
        }
        for pause in PAUSES {
            if left.is_empty() {
                return Ok(applied);
            }
            self.offer(&mut left, &mut applied).await?;
            if !left.is_empty() {
                sleep(pause).await;
            }
        }
        if left.is_empty() {
            return Ok(applied);
        }
        let message = format!("OpenSearch cannot take {} of the documents at the moment", left.len());
        Err(ProjectionError::new(ProjectionErrorKind::Unavailable, message))
    }
}

/// A document as it is kept: with content, or as the memory of a deletion. A deleted one that were really removed
/// would lose its version after a while, and a late duplicate could revive it.
#[derive(Serialize)]
#[serde(untagged)]
enum Kept<'a> {
    Alive {
        #[serde(flatten)]
        document: &'a SearchDocument,
        deleted: bool,
    },
    Deleted {
        id: i64,
        deleted: bool,
    },
}

impl OpenSearchIndex {
    /// Offers all changes once. Those that OpenSearch could not take at the moment stay.
    async fn offer(&self, left: &mut BTreeMap<i64, Change>, applied: &mut Applied) -> Result<(), ProjectionError> {
        let mut operations = BulkOperations::new();
        for change in left.values() {
            let kept = match &change.document {
                Some(document) => Kept::Alive { document, deleted: false },
                None => Kept::Deleted { id: change.id, deleted: true },
            };
            let operation = BulkOperation::index(kept)
                .id(change.id.to_string())
                .version_type(VersionType::ExternalGte)
                .version(change.version as i64);
            operations.push(operation).map_err(|e| failed(CallError::Transport(e)))?;
        }
        let answer = self.0.client.bulk(&self.0.alias, operations).await.map_err(failed)?;
        let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        for item in items.iter().map(|item| &item["index"]) {
            let id = item["_id"].as_str().and_then(|id| id.parse().ok());
            let Some(id) = id.filter(|id| left.contains_key(id)) else { continue };
            match Taken::of(item) {
                Taken::Written => applied.applied += 1,
                Taken::Older => applied.duplicates += 1,
                Taken::NotNow => continue,
                Taken::Refused(why) => {
                    let message = format!("OpenSearch refuses tutor {id}: {why}");
                    return Err(ProjectionError::new(ProjectionErrorKind::Rejected, message));
                }
            }
            left.remove(&id);
        }
        Ok(())
    }
}

/// What became of one document.
enum Taken {
    Written,
    /// What is there is newer.
    Older,
    NotNow,
    Refused(String),
}

impl Taken {
    fn of(item: &Value) -> Self {
        match item["status"].as_u64().unwrap_or_default() {
            200..=299 => Self::Written,
            409 => Self::Older,
            400..=499 if !matches!(item["status"].as_u64(), Some(404 | 429)) => Self::Refused(reason(&item["error"])),
            _ => Self::NotNow,
        }
    }
}

fn failed(error: CallError) -> ProjectionError {
    let (kind, message) = if error.is_away() {
        (ProjectionErrorKind::Unavailable, "the search index cannot be written to now")
    } else {
        (ProjectionErrorKind::Rejected, "the search index refuses")
    };
    ProjectionError::new(kind, message).with_source(error)
}
