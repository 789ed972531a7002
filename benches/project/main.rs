//! How fast events become a read model, beside bare loops that write the same rows: from memory into PostgreSQL, in steps
//! of several sizes; from memory into OpenSearch; and from a SQLite log into the same file.
//!
//! ```sh
//! cargo bench --bench project                   # 400,000 and 200,000 events, 5 rounds
//! ```
//!
//! Rounds are interleaved.

#[path = "../figures/mod.rs"]
#[allow(dead_code, reason = "each bench uses a part of it")]
mod figures;
#[path = "../index/mod.rs"]
mod index;
mod opensearch;
mod postgres;
mod sqlite;

use figures::{report::Report, table::number};
use serde_json::json;
use test_services::PostgresVersion;

/// A payload that makes events of about 300 bytes.
const PAYLOAD_BYTES: usize = 240;
const AGGREGATES: usize = 10_000;
const BURST: usize = 4;

struct Size {
    events: usize,
    rounds: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let size =
        Size { events: number("OUTBOX_BENCH_EVENTS", 200_000)?, rounds: number("OUTBOX_BENCH_ROUNDS", 5)?.max(1) };
    let postgres = number("OUTBOX_BENCH_POSTGRES", 15)?;
    let settings = json!({"events": size.events, "rounds": size.rounds, "postgres": postgres});
    let mut report = Report::begin("project", settings);
    let version = if postgres == 18 { PostgresVersion::V18 } else { PostgresVersion::V15 };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let from_memory = Size { events: 2 * size.events, rounds: size.rounds };
    for (step, rates) in runtime.block_on(postgres::run(&from_memory, version))? {
        report.table(&format!("Events in memory → PostgreSQL, steps of {step}"), "events/s", &rates, &[postgres::RAW]);
    }
    let rates = runtime.block_on(opensearch::run(&size))?;
    report.table("Events in memory → OpenSearch, steps of 1000", "events/s", &rates, &[opensearch::RAW]);
    let rates = runtime.block_on(sqlite::run(&size))?;
    report.table("SQLite log → SQL projection", "events/s", &rates, &[sqlite::RAW]);
    report.end()
}

/// The `n`-th event's aggregate: bursts of one aggregate, as when a row is edited several times.
fn aggregate(n: usize) -> usize {
    n / BURST % AGGREGATES
}

fn payload(n: usize) -> serde_json::Value {
    serde_json::json!({"n": n, "text": "x".repeat(PAYLOAD_BYTES - 20)})
}
