//! The suites that stores and projections pass.

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::{
    projection::Projection,
    testing::projection::{Effect, ProjectionHarness},
};
use outbox_projector::external::{
    MemoryDocuments, PositionedProjection, VersionedProjection, VersionedStore,
    testing::{CommitEach, VersionedStoreHarness},
};

use super::{change, document, number, store};

struct Store<S> {
    store: S,
    documents: MemoryDocuments,
}

#[async_trait]
impl<S: VersionedStore> VersionedStoreHarness for Store<S> {
    type Store = S;

    fn store(&self) -> &S {
        &self.store
    }

    fn document(&self, id: &str, number: u64, text_bytes: usize) -> Bytes {
        document(id, number, text_bytes)
    }

    fn refused_document(&self) -> Option<Bytes> {
        Some(Bytes::from_static(b"{}"))
    }

    async fn find(&self, id: &str) -> Option<u64> {
        number(&self.documents.get(id)?)
    }

    /// Memory forgets nothing as long as there is a handle on it.
    async fn restart(&mut self) -> bool {
        true
    }
}

#[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
async fn versioned() -> Store<MemoryDocuments> {
    let documents = store();
    Store { store: documents.clone(), documents }
}

#[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
async fn positioned() -> Store<CommitEach<MemoryDocuments>> {
    let documents = store();
    Store { store: CommitEach::new(documents.clone()), documents }
}

outbox_projector::versioned_store_suite!(versioned_store, versioned);
outbox_projector::versioned_store_suite!(positioned_store, positioned);

struct Projecting<P> {
    projection: P,
    documents: MemoryDocuments,
}

#[async_trait]
impl<P: Projection> ProjectionHarness for Projecting<P> {
    type Projection = P;

    fn projection(&self) -> &P {
        &self.projection
    }

    fn effect(&self) -> Effect {
        Effect::Overwrite
    }

    async fn effects(&self, aggregate_type: &str, key: &str) -> Vec<u64> {
        let found = self.documents.get(&format!("{aggregate_type}/{key}"));
        found.and_then(|document| number(&document)).into_iter().collect()
    }
}

#[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
async fn into_versioned() -> Projecting<impl Projection> {
    let documents = store();
    // Two in a request, so that steps are more than one.
    let projection = VersionedProjection::builder("suite", documents.clone(), change).bulk_writes(2).build();
    Projecting { projection, documents }
}

#[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
async fn into_positioned() -> Projecting<impl Projection> {
    let documents = store();
    Projecting { projection: PositionedProjection::new("suite", documents.clone(), change), documents }
}

outbox_core::projection_suite!(versioned_projection, into_versioned);
outbox_core::projection_suite!(positioned_projection, into_positioned);
