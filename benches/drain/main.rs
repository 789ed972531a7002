//! How fast a backlog drains, beside the raw limits of the same run.
//!
//! ```sh
//! cargo bench --bench drain                     # 200,000 events, 3 rounds
//! OUTBOX_BENCH_EVENTS=2000000 OUTBOX_BENCH_ROUNDS=5 cargo bench --bench drain
//! ```
//!
//! Rounds are interleaved: each runs every contestant once, so that a change in the machine's load touches all.

mod kafka;
mod sqlite;
#[path = "../figures/table.rs"]
mod table;

use table::{Table, load, number};

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
        Size { events: number("OUTBOX_BENCH_EVENTS", 200_000)?, rounds: number("OUTBOX_BENCH_ROUNDS", 3)?.max(1) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        eprintln!("{} events, {} rounds; load {}", size.events, size.rounds, load());
        kafka::run(&size).await?.print("PostgreSQL → Kafka", "events/s", "raw: page + produce + checkpoint");
        sqlite::run(&size).await?.print("SQLite log → SQL projection", "events/s", "raw: page + upsert + position");
        eprintln!("load {}", load());
        Ok(())
    })
}

/// The `n`-th event's aggregate: bursts of one aggregate, as when a row is edited several times.
fn aggregate(n: usize) -> usize {
    n / BURST % AGGREGATES
}

fn payload(n: usize) -> serde_json::Value {
    serde_json::json!({"n": n, "text": "x".repeat(PAYLOAD_BYTES - 20)})
}
