//! What a relay's settings, more relays and a longer backlog change.
//!
//! ```sh
//! cargo bench --bench scaling                       # settings and relays, 500,000 events, 3 rounds
//! OUTBOX_BENCH_PART=backlog cargo bench --bench scaling
//! ```
//!
//! Settings and relays: one thing at a time differs from the defaults. Backlog: 10,000 to 10,000,000 events are left of
//! one log, short ones are drained several times a round; `OUTBOX_BENCH_EVENTS` is the longest. Rounds are interleaved,
//! each contestant is a process of its own, as in `drain`.

mod backlog;
#[path = "../contest/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each bench uses a part of it")]
mod contest;
#[path = "../figures/mod.rs"]
#[allow(dead_code, reason = "each bench uses a part of it")]
mod figures;
mod settings;

use contest::{Contestant, Outcome, RelaySettings, Result, Task, run_as_contestant, topic};
use figures::{
    report::Report,
    table::{Table, number},
};
use serde_json::json;
use test_services::{PostgresVersion, TestDatabase};

fn main() -> Result<()> {
    if run_as_contestant()? {
        return Ok(());
    }
    let part = std::env::var("OUTBOX_BENCH_PART").unwrap_or_else(|_| "settings".to_owned());
    let rounds = number("OUTBOX_BENCH_ROUNDS", 3)?.max(1);
    let postgres = number("OUTBOX_BENCH_POSTGRES", 15)?;
    let version = if postgres == 18 { PostgresVersion::V18 } else { PostgresVersion::V15 };
    let longest = if part == "backlog" { 10_000_000 } else { 500_000 };
    let events = number("OUTBOX_BENCH_EVENTS", longest)? as u64;
    let facts = json!({"part": part, "events": events, "rounds": rounds, "postgres": postgres});
    let mut report = Report::begin(&format!("scaling-{part}"), facts);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let database = TestDatabase::create(version).await;
        match part.as_str() {
            "settings" => settings::run(&database, events, rounds, &mut report).await?,
            "backlog" => backlog::run(&database, events, rounds, &mut report).await?,
            other => return Err(format!("OUTBOX_BENCH_PART={other}: settings or backlog").into()),
        }
        database.drop_database().await;
        Result::Ok(())
    })?;
    report.end()
}

/// Rates and costs of relays.
#[derive(Default)]
struct Tables {
    rates: Table,
    process: Table,
    database: Table,
    broker: Table,
    memory: Table,
}

impl Tables {
    /// One row of a round, from one or several runs of it.
    fn add(&mut self, row: &str, outcomes: &[Outcome]) {
        let sum = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>();
        let events = sum(|outcome| outcome.events as f64);
        self.rates.record_figure(row, events / sum(|outcome| outcome.seconds));
        self.process.keep(row, 1e6 * sum(|outcome| outcome.process) / events);
        self.database.keep(row, 1e6 * sum(|outcome| outcome.database.unwrap_or(f64::NAN)) / events);
        self.broker.keep(row, 1e6 * sum(|outcome| outcome.broker.unwrap_or(f64::NAN)) / events);
        let most = outcomes.iter().map(|outcome| outcome.most_memory).max().unwrap_or_default();
        self.memory.keep(row, most as f64 / (1024.0 * 1024.0));
    }

    fn tell(&self, title: &str, report: &mut Report, yardstick: &str) {
        let title = |of: &str| format!("{title}{of}");
        report.table(&title(""), "events/s", &self.rates, &[yardstick]);
        report.table(&title(", processor time of the process"), "µs/event", &self.process, &[yardstick]);
        report.table(&title(", processor time of its sessions"), "µs/event", &self.database, &[yardstick]);
        report.table(&title(", processor time of the broker"), "µs/event", &self.broker, &[yardstick]);
        report.table(&title(", the most memory"), "MiB", &self.memory, &[yardstick]);
    }
}

/// A relay on a topic of its own.
async fn drain(database: &TestDatabase, schema: &str, events: u64, relay: RelaySettings) -> Result<Outcome> {
    let topic = topic::create(false).await?;
    let (contestant, schema, database) = (Contestant::Relay(relay), schema.to_owned(), database.url().to_owned());
    let task = Task { contestant, database, schema, topic, events };
    let outcome = task.run().await?;
    topic::delete(&task.topic).await?;
    Ok(outcome)
}
