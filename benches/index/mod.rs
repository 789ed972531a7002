//! Documents in an OpenSearch index of its own, written with external versions.

use async_trait::async_trait;
use bytes::Bytes;
use opensearch::{
    BulkOperation, BulkOperations, BulkParts, OpenSearch,
    http::{
        Url,
        transport::{SingleNodeConnectionPool, TransportBuilder},
    },
    indices::{IndicesCreateParts, IndicesDeleteParts},
    params::VersionType,
};
use outbox_core::{error::BoxError, event::ReceivedEvent, projection::Projection};
use outbox_projector::external::{
    Change, StoreError, StoreErrorKind, VersionedProjection, VersionedStore, VersionedWrite, Written,
};
use serde_json::{Value, json, value::RawValue};
use test_services::{opensearch_url, unique};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Clone)]
pub(crate) struct Index {
    client: OpenSearch,
    name: String,
}

impl Index {
    pub(crate) async fn create() -> Result<Self> {
        let url = Url::parse(&opensearch_url().await)?;
        let transport = TransportBuilder::new(SingleNodeConnectionPool::new(url)).disable_proxy().build()?;
        let index = Self { client: OpenSearch::new(transport), name: unique("project") };
        let body = json!({
            "settings": { "number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "1s" },
            "mappings": { "properties": { "n": { "type": "long" }, "text": { "type": "keyword" } } },
        });
        let made = index.client.indices().create(IndicesCreateParts::Index(&index.name)).body(body).send().await?;
        made.error_for_status_code()?;
        Ok(index)
    }

    pub(crate) async fn delete(&self) -> Result<()> {
        Ok(self.client.indices().delete(IndicesDeleteParts::Index(&[&self.name])).send().await.map(drop)?)
    }

    /// Keeps the latest payload of each aggregate.
    pub(crate) fn projection(&self, name: &str) -> impl Projection + use<> {
        let document = |received: &ReceivedEvent| -> std::result::Result<Option<Change>, BoxError> {
            let event = &received.event;
            Ok(Some(Change::store(event.aggregate_id.as_str(), event.payload.clone().unwrap_or_default())))
        };
        VersionedProjection::builder(name, self.clone(), document).build()
    }

    /// The status of each item.
    pub(crate) async fn bulk(&self, operations: BulkOperations) -> std::result::Result<Vec<u64>, opensearch::Error> {
        let sent = self.client.bulk(BulkParts::Index(&self.name)).body(vec![operations]).send().await?;
        let answer: Value = sent.error_for_status_code()?.json().await?;
        let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(items.iter().map(|item| item["index"]["status"].as_u64().unwrap_or_default()).collect())
    }
}

pub(crate) fn add(operations: &mut BulkOperations, id: &str, version: u64, document: &[u8]) -> Result<()> {
    let document: &RawValue = serde_json::from_slice(document)?;
    let operation = BulkOperation::index(document).id(id).version_type(VersionType::External).version(version as i64);
    Ok(operations.push(operation)?)
}

#[async_trait]
impl VersionedStore for Index {
    async fn write(&self, writes: &[VersionedWrite]) -> std::result::Result<Vec<Written>, StoreError> {
        let failed = |error: BoxError| {
            StoreError::new(StoreErrorKind::Unavailable, "OpenSearch cannot be written to").with_source(error)
        };
        let mut operations = BulkOperations::new();
        for write in writes {
            let document = write.document.as_ref().map_or(&b"{}"[..], Bytes::as_ref);
            add(&mut operations, &write.id, write.version, document)
                .map_err(|error| failed(error.to_string().into()))?;
        }
        let statuses = self.bulk(operations).await.map_err(|error| failed(error.into()))?;
        let written = |status: &u64| match status {
            200..=299 => Written::Stored,
            409 => Written::Stale,
            status => Written::Busy(status.to_string()),
        };
        Ok(statuses.iter().map(written).collect())
    }
}
