use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use outbox_core::{
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    retry::RetryPolicy,
    source::{Partition, SourcePosition},
};

use super::{
    Documents, StoreError, StoreErrorKind, VersionedStore, VersionedWrite, Written,
    bulk::{Bulk, Writing},
    newest::Newest,
};

/// A projection into a store that compares versions: an event's sequence is its document's version.
///
/// It keeps no position: the source's own commit does. So a step may come again, and versions make that harmless, however
/// late it is and however many processes write. Of several changes of one document in a step only the newest is written;
/// the older ones count as what became of that one.
///
/// A document that the store refuses rejects its event, and only that: the others of the step are written. Documents that
/// the store is too busy for are sent again by themselves, see [`VersionedProjectionBuilder::retry`]; then the step fails
/// as [`ProjectionErrorKind::Unavailable`].
pub struct VersionedProjection<S, D> {
    name: Arc<str>,
    store: S,
    documents: D,
    bulk: Bulk,
    /// What a step stored before it failed, lest its next try counts it as duplicates.
    stored: Mutex<HashMap<Partition, Versions>>,
}

/// Ids and versions.
type Versions = HashSet<(String, u64)>;

/// Settings of a [`VersionedProjection`].
pub struct VersionedProjectionBuilder<S, D>(VersionedProjection<S, D>);

impl<S: VersionedStore, D: Documents> VersionedProjection<S, D> {
    /// A projection of this name, which shows in logs and metrics.
    #[must_use]
    pub fn builder(name: impl Into<Arc<str>>, store: S, documents: D) -> VersionedProjectionBuilder<S, D> {
        let name = name.into();
        VersionedProjectionBuilder(Self { name, store, documents, bulk: Bulk::default(), stored: Mutex::default() })
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }
}

impl<S: VersionedStore, D: Documents> VersionedProjectionBuilder<S, D> {
    /// At most so many documents go into one request. Default: 1,000; at least 1.
    #[must_use]
    pub fn bulk_writes(mut self, most: usize) -> Self {
        self.0.bulk.writes = most.max(1);
        self
    }

    /// A request ends before its ids and documents exceed so many bytes, unless the first alone does. Default: 5 MiB. When
    /// the store finds a request too large all the same, it is halved.
    #[must_use]
    pub fn bulk_bytes(mut self, most: usize) -> Self {
        self.0.bulk.bytes = most;
        self
    }

    /// How often a document that the store is too busy for is sent before the step fails, and when. The step is then tried
    /// again by whoever applies it. Default: 5 times, with waits of up to 50 ms growing to 400 ms.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.0.bulk.retry = policy;
        self
    }

    /// The projection. Nothing is sent to the store.
    #[must_use]
    pub fn build(self) -> VersionedProjection<S, D> {
        self.0
    }
}

#[async_trait]
impl<S: VersionedStore, D: Documents> Projection for VersionedProjection<S, D> {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        ProjectionCapabilities::new(false)
    }

    async fn position(&self, _: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        Ok(None)
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let newest = Newest::of(&self.documents, step.events)?;
        if newest.writes.is_empty() {
            return Ok(newest.counted);
        }
        let mut before = self.take_stored(step.partition);
        let mut writing = Writing::new(&self.store, self.bulk, newest.writes.len());
        let sent = writing.send(&newest.writes).await;
        let result = sent.map_err(unavailable).and_then(|()| count(&newest, &writing.fates, &before));
        if result.is_err() {
            before.extend(stored(&newest.writes, &writing.fates));
            self.remember(step.partition, before);
        }
        result
    }
}

impl<S, D> VersionedProjection<S, D> {
    fn take_stored(&self, partition: &Partition) -> Versions {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).remove(partition).unwrap_or_default()
    }

    fn remember(&self, partition: &Partition, versions: Versions) {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).insert(partition.clone(), versions);
    }
}

/// # Errors
/// [`ProjectionErrorKind::Rejected`] for the first event whose document was refused.
fn count(newest: &Newest, fates: &[Option<Written>], before: &Versions) -> Result<Applied, ProjectionError> {
    let mut applied = newest.counted;
    let mut refused: Option<(usize, &VersionedWrite, &str)> = None;
    for ((write, behind), fate) in newest.writes.iter().zip(&newest.behind).zip(fates) {
        match fate {
            Some(Written::Refused(reason)) if refused.is_none_or(|(event, ..)| behind.event < event) => {
                refused = Some((behind.event, write, reason));
            }
            Some(Written::Refused(_)) => {}
            Some(Written::Stored) => behind.count(true, &mut applied),
            _ => behind.count(before.contains(&(write.id.clone(), write.version)), &mut applied),
        }
    }
    let Some((event, write, reason)) = refused else { return Ok(applied) };
    let message = format!("the store refuses document {}: {reason}", write.id);
    Err(ProjectionError::new(ProjectionErrorKind::Rejected, message).at(event))
}

fn stored<'a>(writes: &'a [VersionedWrite], fates: &'a [Option<Written>]) -> impl Iterator<Item = (String, u64)> + 'a {
    let stored = writes.iter().zip(fates).filter(|(_, fate)| **fate == Some(Written::Stored));
    stored.map(|(write, _)| (write.id.clone(), write.version))
}

/// No event is to blame for what the store says of a whole request.
pub(super) fn unavailable(error: StoreError) -> ProjectionError {
    let message = match error.kind() {
        StoreErrorKind::Unavailable => "the store cannot be written to now",
        StoreErrorKind::Refused | StoreErrorKind::TooLarge => "the store refuses to be written to; somebody has to act",
    };
    ProjectionError::new(ProjectionErrorKind::Unavailable, message).with_source(error)
}
