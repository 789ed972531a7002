//! Writing into OpenSearch, with the events' sequences as the documents' versions.
//!
//! A deleted tutor stays as a document that says so. OpenSearch forgets the version of what it deleted after a minute, and
//! with every restart of a node; an event that is repeated after that would bring the tutor back. Nothing sweeps these
//! documents up: each is a few bytes, and how late an event can be repeated depends on how long the topic keeps it.

use opensearch::{BulkOperation, BulkOperations, params::VersionType};
use outbox_projector::external::{StoreError, StoreErrorKind, VersionedWrite, Written};
use serde_json::{Value, json};

use super::{CallError, OpenSearchIndex, client::reason};

/// Writes through an alias, to whatever index that is.
pub(super) async fn write(
    index: &OpenSearchIndex,
    alias: &str,
    writes: &[VersionedWrite],
) -> Result<Vec<Written>, StoreError> {
    index.prepare().await?;
    let mut operations = BulkOperations::new();
    // What is no JSON would break the whole request, so it is refused here.
    let mut unreadable = Vec::new();
    for write in writes {
        let kept = write.document.as_ref().map_or(Ok(json!({ "deleted": true })), |d| serde_json::from_slice(d));
        unreadable.push(kept.as_ref().err().map(ToString::to_string));
        let Ok(kept): Result<Value, _> = kept else { continue };
        let operation =
            BulkOperation::index(kept).id(&write.id).version_type(VersionType::External).version(write.version as i64);
        operations.push(operation).map_err(CallError::Transport)?;
    }
    let mut items = Vec::new();
    if unreadable.iter().any(Option::is_none) {
        let answer = index.0.client.bulk(alias, operations).await?;
        items = answer["items"].as_array().cloned().unwrap_or_default();
    }
    let mut items = items.iter().map(|item| written(&item["index"]));
    let written = unreadable.into_iter().map(|why| why.map_or_else(|| items.next(), |why| Some(Written::Refused(why))));
    Ok(written.flatten().collect())
}

fn written(item: &Value) -> Written {
    let why = || reason(&item["error"]);
    match item["status"].as_u64().unwrap_or_default() {
        200..=299 => Written::Stored,
        409 => Written::Stale,
        // The alias is not there yet, or not any more; or there is too much to do.
        404 | 429 => Written::Busy(why()),
        400..=499 => Written::Refused(why()),
        _ => Written::Busy(why()),
    }
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        let (kind, message) = match error.status() {
            Some(413) => (StoreErrorKind::TooLarge, "OpenSearch takes no requests of this size"),
            _ if error.is_away() => (StoreErrorKind::Unavailable, "the search index cannot be written to now"),
            _ => (StoreErrorKind::Refused, "the search index refuses to be written to"),
        };
        Self::new(kind, message).with_source(error)
    }
}
