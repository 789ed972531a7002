use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    retry::RetryPolicy,
    source::{Partition, SourcePosition},
};

use super::{
    Documents, StoreError, StoreErrorKind, VersionedStore, VersionedWrite, Written,
    bulk::{Bulk, Writing},
    newest::Newest,
    tried::Tried,
};
use crate::trace::{self, LinkTrace};

/// A projection into a store that compares versions: an event's sequence is its document's version.
///
/// It keeps no position: the source's own commit does. So a step may come again, and versions make that harmless, however
/// late it is and however many processes write. Of several changes of one document in a step only the newest is written;
/// the older ones count as what became of that one.
///
/// A document that the store refuses rejects its event, and only that: the others of the step are written. When the step
/// comes again without that event, what the store said of the others is still known: however many documents of a step are
/// refused, each is sent once. When it comes again with that event, the store is asked again.
///
/// Documents that the store is too busy for are sent again by themselves, see [`VersionedProjectionBuilder::retry`]; then
/// the step fails as [`ProjectionErrorKind::Unavailable`].
pub struct VersionedProjection<S, D> {
    name: Arc<str>,
    store: S,
    pub(super) documents: D,
    bulk: Bulk,
    link: Option<LinkTrace>,
    /// Of the partitions whose last step failed.
    tried: Mutex<HashMap<Partition, Tried>>,
}

/// Settings of a [`VersionedProjection`].
pub struct VersionedProjectionBuilder<S, D>(VersionedProjection<S, D>);

impl<S: VersionedStore, D: Documents> VersionedProjection<S, D> {
    /// A projection of this name, which shows in logs and metrics.
    #[must_use]
    pub fn builder(name: impl Into<Arc<str>>, store: S, documents: D) -> VersionedProjectionBuilder<S, D> {
        let name = name.into();
        let (bulk, tried) = (Bulk::default(), Mutex::default());
        VersionedProjectionBuilder(Self { name, store, documents, bulk, link: None, tried })
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

    /// Joins each event's span to the trace of its producer; see [`trace`](crate::trace). Default: not.
    #[must_use]
    pub fn link_traces(mut self, link: LinkTrace) -> Self {
        self.0.link = Some(link);
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
        trace::projecting(&self.name, step, self.link, self.write(step)).await
    }
}

impl<S: VersionedStore, D: Documents> VersionedProjection<S, D> {
    async fn write(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let newest = Newest::of(&self.documents, step.events)?;
        let mut tried = self.tried().remove(step.partition).unwrap_or_default();
        if newest.writes.is_empty() {
            return Ok(newest.counted);
        }
        let mut writing = Writing::new(&self.store, self.bulk, tried.fates(&newest.writes, step.to));
        let sent = writing.send(&newest.writes).await;
        let result = match sent {
            Ok(()) => count(&newest, &writing.fates, &tried),
            Err(error) => Err(unavailable(error)),
        };
        if let Err(error) = &result {
            tried.add(&newest.writes, writing.fates);
            if let Some(refused) = error.event().and_then(|event| newest.write_of(event)) {
                tried.blame(refused, step.to);
            }
            self.tried().insert(step.partition.clone(), tried);
        }
        result
    }

    /// Outside of any step.
    pub(super) async fn write_alone(&self, received: &ReceivedEvent) -> Result<Applied, ProjectionError> {
        let newest = Newest::of(&self.documents, std::slice::from_ref(received))?;
        let mut writing = Writing::new(&self.store, self.bulk, vec![None; newest.writes.len()]);
        writing.send(&newest.writes).await.map_err(unavailable)?;
        count(&newest, &writing.fates, &Tried::default())
    }

    fn tried(&self) -> MutexGuard<'_, HashMap<Partition, Tried>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// # Errors
/// [`ProjectionErrorKind::Rejected`] for the first event whose document was refused.
fn count(newest: &Newest, fates: &[Option<Written>], tried: &Tried) -> Result<Applied, ProjectionError> {
    let mut applied = newest.counted;
    let mut refused: Option<(usize, &VersionedWrite, &str)> = None;
    for ((write, behind), fate) in newest.writes.iter().zip(&newest.behind).zip(fates) {
        match fate {
            Some(Written::Refused(reason)) if refused.is_none_or(|(event, ..)| behind.event < event) => {
                refused = Some((behind.event, write, reason));
            }
            Some(Written::Refused(_)) => {}
            Some(Written::Stored) => behind.count(true, &mut applied),
            _ => behind.count(tried.stored(write), &mut applied),
        }
    }
    let Some((event, write, reason)) = refused else { return Ok(applied) };
    // What a store says may quote the document, so it is a cause, which no log shows.
    let message = format!("the store refuses document {}", write.id);
    Err(ProjectionError::new(ProjectionErrorKind::Rejected, message).with_source(reason).at(event))
}

/// No event is to blame for what the store says of a whole request.
pub(super) fn unavailable(error: StoreError) -> ProjectionError {
    let message = match error.kind() {
        StoreErrorKind::Unavailable => "the store cannot be written to now",
        StoreErrorKind::Refused | StoreErrorKind::TooLarge => "the store refuses to be written to; somebody has to act",
    };
    ProjectionError::new(ProjectionErrorKind::Unavailable, message).with_source(error)
}
