//! Events in memory → documents in OpenSearch, beside a bare client that sends the same bulk requests.

use opensearch::BulkOperations;
use outbox_core::{
    event::ReceivedEvent,
    projection::{Projection as _, Step},
    source::{Partition, SourcePosition},
};

use crate::{
    Size,
    figures::table::{Stopwatch, Table},
    index::{Index, add},
    postgres::events,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub(crate) const RAW: &str = "raw bulk client";
/// Documents of one request, and events of one step.
const STEP: usize = 1_000;

pub(crate) async fn run(size: &Size) -> Result<Table> {
    let events = events(size.events)?;
    let mut table = Table::default();
    for round in 1..=size.rounds {
        eprintln!("round {round} of {}, events in memory → OpenSearch", size.rounds);
        for raw in [true, false] {
            let index = Index::create().await?;
            let watch = Stopwatch::start();
            if raw {
                bare(&index, &events).await?;
            } else {
                project(&index, &events).await?;
            }
            table.record(if raw { RAW } else { "versioned projection" }, events.len(), watch.took());
            index.delete().await?;
        }
    }
    Ok(table)
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

async fn project(index: &Index, events: &[ReceivedEvent]) -> Result<()> {
    let projection = index.projection("project");
    let partition = Partition::new("memory/0");
    for (n, chunk) in events.chunks(STEP).enumerate() {
        let to = SourcePosition::from_text(n.to_string());
        projection.apply(Step::new(&partition, None, &to, chunk)).await?;
    }
    Ok(())
}
