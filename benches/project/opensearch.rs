//! Events in memory → documents in OpenSearch, beside a bare client that sends the same bulk requests.

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
use outbox_core::{
    error::BoxError,
    event::ReceivedEvent,
    projection::{Projection as _, Step},
    source::{Partition, SourcePosition},
};
use outbox_projector::external::{
    Change, StoreError, StoreErrorKind, VersionedProjection, VersionedStore, VersionedWrite, Written,
};
use serde_json::{Value, json, value::RawValue};
use test_services::{opensearch_url, unique};

use crate::{
    Size,
    figures::table::{Stopwatch, Table},
    postgres::events,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub(crate) const RAW: &str = "raw bulk client";
/// Documents of one request, and events of one step.
const STEP: usize = 1_000;

pub(crate) async fn run(size: &Size) -> Result<Table> {
    let url = Url::parse(&opensearch_url().await)?;
    let transport = TransportBuilder::new(SingleNodeConnectionPool::new(url)).disable_proxy().build()?;
    let client = OpenSearch::new(transport);
    let events = events(size.events)?;
    let mut table = Table::default();
    for round in 1..=size.rounds {
        eprintln!("round {round} of {}, events in memory → OpenSearch", size.rounds);
        for raw in [true, false] {
            let index = Index { client: client.clone(), name: unique("project") };
            index.create().await?;
            let watch = Stopwatch::start();
            if raw {
                bare(&index, &events).await?;
            } else {
                project(index.clone(), &events).await?;
            }
            table.record(if raw { RAW } else { "versioned projection" }, events.len(), watch.took());
            index.delete().await?;
        }
    }
    Ok(table)
}

#[derive(Clone)]
struct Index {
    client: OpenSearch,
    name: String,
}

impl Index {
    async fn create(&self) -> Result<()> {
        let body = json!({
            "settings": { "number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "1s" },
            "mappings": { "properties": { "n": { "type": "long" }, "text": { "type": "keyword" } } },
        });
        let made = self.client.indices().create(IndicesCreateParts::Index(&self.name)).body(body).send().await?;
        Ok(made.error_for_status_code().map(drop)?)
    }

    async fn delete(&self) -> Result<()> {
        Ok(self.client.indices().delete(IndicesDeleteParts::Index(&[&self.name])).send().await.map(drop)?)
    }

    /// The status of each item.
    async fn bulk(&self, operations: BulkOperations) -> std::result::Result<Vec<u64>, opensearch::Error> {
        let sent = self.client.bulk(BulkParts::Index(&self.name)).body(vec![operations]).send().await?;
        let answer: Value = sent.error_for_status_code()?.json().await?;
        let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(items.iter().map(|item| item["index"]["status"].as_u64().unwrap_or_default()).collect())
    }
}

fn add(operations: &mut BulkOperations, id: &str, version: u64, document: &[u8]) -> Result<()> {
    let document: &RawValue = serde_json::from_slice(document)?;
    let operation = BulkOperation::index(document).id(id).version_type(VersionType::External).version(version as i64);
    Ok(operations.push(operation)?)
}

/// The newest document of each id of a step, as the projection sends it.
async fn bare(index: &Index, events: &[ReceivedEvent]) -> Result<()> {
    for chunk in events.chunks(STEP) {
        let mut known = std::collections::HashSet::new();
        let mut operations = BulkOperations::new();
        for received in chunk.iter().rev() {
            let id = received.event.aggregate_id.as_str();
            if known.insert(id) {
                let version = received.origin.map_or(0, |origin| origin.sequence.get());
                add(&mut operations, id, version, received.event.payload.as_deref().unwrap_or_default())?;
            }
        }
        let statuses = index.bulk(operations).await?;
        assert!(statuses.iter().all(|status| *status < 300), "each document is newer");
    }
    Ok(())
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

async fn project(index: Index, events: &[ReceivedEvent]) -> Result<()> {
    let document = |received: &ReceivedEvent| -> std::result::Result<Option<Change>, BoxError> {
        let event = &received.event;
        Ok(Some(Change::store(event.aggregate_id.as_str(), event.payload.clone().unwrap_or_default())))
    };
    let projection = VersionedProjection::builder("project", index, document).build();
    let partition = Partition::new("memory/0");
    for (n, chunk) in events.chunks(STEP).enumerate() {
        let to = SourcePosition::from_text(n.to_string());
        projection.apply(Step::new(&partition, None, &to, chunk)).await?;
    }
    Ok(())
}
