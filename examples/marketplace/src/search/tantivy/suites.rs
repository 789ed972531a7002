//! The suites of stores and projections, on an index in a directory.

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::{
    event::LogId,
    testing::projection::{Effect, ProjectionHarness},
};
use outbox_projector::external::{
    Documents, PositionedProjection,
    testing::{CommitEach, VersionedStoreHarness},
};
use tempfile::TempDir;
use uuid::Uuid;

use super::TantivyIndex;
use crate::search::suite;

const LOG: LogId = LogId(Uuid::from_u128(1));

struct Store {
    /// `None` only while it is opened again.
    store: Option<CommitEach<TantivyIndex>>,
    directory: TempDir,
}

fn open(directory: &TempDir) -> TantivyIndex {
    TantivyIndex::open(&directory.path().join("search"), LOG).expect("index")
}

#[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
async fn store() -> Store {
    let directory = TempDir::new().expect("directory");
    Store { store: Some(CommitEach::new(open(&directory))), directory }
}

#[async_trait]
impl VersionedStoreHarness for Store {
    type Store = CommitEach<TantivyIndex>;

    fn store(&self) -> &Self::Store {
        self.store.as_ref().expect("open")
    }

    fn document(&self, id: &str, number: u64, text_bytes: usize) -> Bytes {
        suite::document(id, number, text_bytes)
    }

    fn refused_document(&self) -> Option<Bytes> {
        Some(Bytes::from_static(b"{}"))
    }

    async fn find(&self, id: &str) -> Option<u64> {
        suite::find(self.store().inner(), id).await
    }

    async fn restart(&mut self) -> bool {
        // Its lock on the directory ends with it.
        drop(self.store.take());
        self.store = Some(CommitEach::new(open(&self.directory)));
        true
    }
}

outbox_projector::versioned_store_suite!(as_a_store, store);

struct Projecting<D> {
    projection: PositionedProjection<TantivyIndex, D>,
    index: TantivyIndex,
    _directory: TempDir,
}

#[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
async fn projection() -> Projecting<impl Documents> {
    let directory = TempDir::new().expect("directory");
    let index = open(&directory);
    let projection = PositionedProjection::new("suite", index.clone(), suite::change);
    Projecting { projection, index, _directory: directory }
}

#[async_trait]
impl<D: Documents> ProjectionHarness for Projecting<D> {
    type Projection = PositionedProjection<TantivyIndex, D>;

    fn projection(&self) -> &Self::Projection {
        &self.projection
    }

    fn effect(&self) -> Effect {
        Effect::Overwrite
    }

    async fn effects(&self, aggregate_type: &str, key: &str) -> Vec<u64> {
        suite::find(&self.index, &format!("{aggregate_type}/{key}")).await.into_iter().collect()
    }
}

outbox_core::projection_suite!(as_a_projection, projection);
