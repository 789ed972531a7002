//! How fast a backlog drains from PostgreSQL to Kafka, and at what cost, beside the raw limits of the same run.
//!
//! ```sh
//! cargo bench --bench drain                     # 2,000,000 events, 5 rounds, about 8 minutes, PostgreSQL 15
//! OUTBOX_BENCH_EVENTS=200000 OUTBOX_BENCH_ROUNDS=3 OUTBOX_BENCH_ONLY=ideal,relay cargo bench --bench drain
//! ```
//!
//! Rounds are interleaved: each runs every contestant once, so that a change in the machine's load touches all. Each
//! contestant is a process of its own. Figures and pictures go where `OUTBOX_BENCH_JSON` says, see `docs/benchmarks.md`.

#[path = "../contest/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each bench uses a part of it")]
mod contest;
mod cost;
#[path = "../figures/mod.rs"]
#[allow(dead_code, reason = "each bench uses a part of it")]
mod figures;

use contest::{Carries, Contestant, Outcome, RelaySettings, Result, Task, log, run_as_contestant, topic};
use cost::Costs;
use figures::{
    report::Report,
    table::{load, number},
};
use outbox_core::event::LaneCount;
use serde_json::json;
use test_services::{PostgresVersion, TestDatabase};

/// A contestant: what `OUTBOX_BENCH_ONLY` calls it, its row, what it does.
struct Row {
    short: &'static str,
    name: &'static str,
    contestant: Contestant,
}

const SCHEMA: &str = "drain";
const IDEAL: &str = "raw-ideal, bare payload";
const SAME_MESSAGE: &str = "raw-ideal, the relay's message";

fn rows() -> [Row; 8] {
    let relay = |null| Contestant::Relay(RelaySettings { null, ..RelaySettings::default() });
    [
        Row { short: "scan", name: "raw scan", contestant: Contestant::Scan },
        Row { short: "produce", name: "raw produce, bare payload", contestant: Contestant::Produce },
        Row { short: "ideal", name: IDEAL, contestant: Contestant::Ideal(Carries::Payload) },
        Row { short: "same", name: SAME_MESSAGE, contestant: Contestant::Ideal(Carries::Message) },
        Row { short: "null", name: "relay, null publisher", contestant: relay(true) },
        Row { short: "relay", name: "relay", contestant: relay(false) },
        Row {
            short: "linger",
            name: "relay, lingering as the loops do",
            contestant: Contestant::Relay(RelaySettings { linger: Some("5".to_owned()), ..RelaySettings::default() }),
        },
        Row {
            short: "lean",
            name: "relay, lean envelope",
            contestant: Contestant::Relay(RelaySettings { lean: true, ..RelaySettings::default() }),
        },
    ]
}

fn main() -> Result<()> {
    if run_as_contestant()? {
        return Ok(());
    }
    let events = number("OUTBOX_BENCH_EVENTS", 2_000_000)? as u64;
    let rounds = number("OUTBOX_BENCH_ROUNDS", 5)?.max(1);
    let postgres = number("OUTBOX_BENCH_POSTGRES", 15)?;
    let only = std::env::var("OUTBOX_BENCH_ONLY").unwrap_or_default();
    let wanted = |row: &Row| only.is_empty() || only.split(',').any(|name| name == row.short);
    let rows: Vec<Row> = rows().into_iter().filter(wanted).collect();
    let mut report = Report::begin("drain", json!({"events": events, "rounds": rounds, "postgres": postgres}));

    let version = if postgres == 18 { PostgresVersion::V18 } else { PostgresVersion::V15 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let costs = runtime.block_on(async {
        let database = TestDatabase::create(version).await;
        log::filled(database.pool(), SCHEMA, LaneCount::default(), events).await?;
        let mut costs = Costs::default();
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}, load {}", load());
            for row in &rows {
                costs.add(row.name, compete(&database, row, events).await?);
            }
        }
        database.drop_database().await;
        Result::Ok(costs)
    })?;
    costs.tell(&mut report, &[IDEAL, SAME_MESSAGE])?;
    report.end()
}

/// On a topic of its own.
async fn compete(database: &TestDatabase, row: &Row, events: u64) -> Result<Outcome> {
    let topic = topic::create(false).await?;
    let (contestant, database) = (row.contestant.clone(), database.url().to_owned());
    let task = Task { contestant, database, schema: SCHEMA.to_owned(), topic, events };
    let outcome = task.run().await?;
    topic::delete(&task.topic).await?;
    Ok(outcome)
}
