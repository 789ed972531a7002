//! The suites of stores and projections, on a real OpenSearch.

use async_trait::async_trait;
use bytes::Bytes;
use opensearch::http::Method;
use outbox_core::{
    event::LogId,
    testing::projection::{Effect, ProjectionHarness},
};
use outbox_projector::external::{
    Documents, VersionedProjection,
    testing::{self, VersionedStoreHarness},
};
use test_services::OwnOpenSearch;
use uuid::Uuid;

use super::{Generation, OpenSearchIndex, generations::OneGeneration};
use crate::search::suite;

const LOG: LogId = LogId(Uuid::from_u128(1));

/// An index of its own, on the node that tests share or on one of its own.
struct Store {
    index: OpenSearchIndex,
    first: OneGeneration,
    own: Option<OwnOpenSearch>,
}

impl Store {
    fn of(index: OpenSearchIndex, own: Option<OwnOpenSearch>) -> Self {
        let first = index.generation(Generation::FIRST);
        Self { index, first, own }
    }
}

fn index(url: &str) -> OpenSearchIndex {
    OpenSearchIndex::new(url, &test_services::unique("tutors"), LOG).expect("address")
}

async fn shared() -> Store {
    Store::of(index(&test_services::opensearch_url().await), None)
}

async fn call(index: &OpenSearchIndex, method: Method, path: &str) {
    index.0.client.call(method, &path.replace("{alias}", &index.0.alias), None).await.expect("done");
}

async fn find(index: &OpenSearchIndex, id: &str) -> Option<u64> {
    index.prepare().await.expect("index");
    call(index, Method::Post, "/{alias}/_refresh").await;
    suite::find(index, id).await
}

#[async_trait]
impl VersionedStoreHarness for Store {
    type Store = OneGeneration;

    fn store(&self) -> &OneGeneration {
        &self.first
    }

    fn document(&self, id: &str, number: u64, text_bytes: usize) -> Bytes {
        suite::document(id, number, text_bytes)
    }

    fn refused_document(&self) -> Option<Bytes> {
        Some(Bytes::from_static(br#"{ "created_at": "yesterday" }"#))
    }

    async fn find(&self, id: &str) -> Option<u64> {
        find(&self.index, id).await
    }

    async fn restart(&mut self) -> bool {
        let Some(node) = &mut self.own else { return false };
        // What is not flushed is replayed at the start, deletions and all: it would hide that the node forgets them.
        call(&self.index, Method::Post, "/{alias}/_flush").await;
        node.kill();
        node.start().await;
        true
    }

    async fn tear_down(self) {
        call(&self.index, Method::Delete, "/{alias}-v1").await;
    }
}

outbox_projector::versioned_store_suite!(as_a_store, shared);

/// The case that the suite skips above: the shared node is not ours to kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_update_does_not_resurrect_after_the_node_was_killed() {
    let node = OwnOpenSearch::create().await;
    let mut store = Store::of(index(&node.url()), Some(node));
    testing::a_late_update_does_not_resurrect_after_a_restart(&mut store).await;
}

/// Of a bulk request, what is no JSON is refused before it is sent: it would break the request for the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_json_keeps_no_other_out() {
    struct NoJson(Store);

    #[async_trait]
    impl VersionedStoreHarness for NoJson {
        type Store = OneGeneration;

        fn store(&self) -> &OneGeneration {
            self.0.store()
        }

        fn document(&self, id: &str, number: u64, text_bytes: usize) -> Bytes {
            self.0.document(id, number, text_bytes)
        }

        fn refused_document(&self) -> Option<Bytes> {
            Some(Bytes::from_static(b"{\n"))
        }

        async fn find(&self, id: &str) -> Option<u64> {
            self.0.find(id).await
        }

        async fn restart(&mut self) -> bool {
            false
        }
    }

    let mut store = NoJson(shared().await);
    testing::a_refused_document_keeps_no_other_out(&mut store).await;
    store.0.tear_down().await;
}

struct Projecting<D> {
    projection: VersionedProjection<OneGeneration, D>,
    index: OpenSearchIndex,
}

async fn projection() -> Projecting<impl Documents> {
    let index = index(&test_services::opensearch_url().await);
    let projection = VersionedProjection::builder("suite", index.generation(Generation::FIRST), suite::change).build();
    Projecting { projection, index }
}

#[async_trait]
impl<D: Documents> ProjectionHarness for Projecting<D> {
    type Projection = VersionedProjection<OneGeneration, D>;

    fn projection(&self) -> &Self::Projection {
        &self.projection
    }

    fn effect(&self) -> Effect {
        Effect::Overwrite
    }

    async fn effects(&self, aggregate_type: &str, key: &str) -> Vec<u64> {
        find(&self.index, &format!("{aggregate_type}/{key}")).await.into_iter().collect()
    }

    async fn tear_down(self) {
        self.index.prepare().await.expect("index");
        call(&self.index, Method::Delete, "/{alias}-v1").await;
    }
}

outbox_core::projection_suite!(as_a_projection, projection);
