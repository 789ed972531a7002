//! How fast a backlog in a SQLite log becomes a read model in the same file, beside a bare loop that does the same.
//!
//! ```sh
//! cargo bench --bench project                   # 200,000 events, 5 rounds
//! ```
//!
//! Rounds are interleaved.

#[path = "../figures/mod.rs"]
#[allow(dead_code, reason = "each bench uses a part of it")]
mod figures;
mod sqlite;

use figures::{report::Report, table::number};
use serde_json::json;

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
    let mut report = Report::begin("project", json!({"events": size.events, "rounds": size.rounds}));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
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
