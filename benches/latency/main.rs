//! How long an event takes from its insert to the broker, stage by stage, beside a bare producer in the same run.
//!
//! ```sh
//! cargo bench --bench latency                   # 500/s and 5,000/s, 5 rounds of 10 s each, about 6 minutes
//! OUTBOX_BENCH_RATES=500 OUTBOX_BENCH_SECONDS=30 OUTBOX_BENCH_ROUNDS=9 cargo bench --bench latency
//! ```
//!
//! Transactions arrive at random moments at the given rate, whether or not the earlier ones are done, and time runs from
//! the moment at which one was to arrive: a stall counts for everything that it delays. Writers and relay are one
//! process, the relay has its default settings and hears the writers' bell. Beyond 500/s a transaction has ten events.
//!
//! `OUTBOX_BENCH_PART=visible` goes on to read models, a table in PostgreSQL and an index in OpenSearch, straight from
//! the log and through Kafka. A document counts as visible when it is written: reading it by its id shows it, while
//! searches wait for the index's next refresh.
//!
//! Rounds are interleaved: the relay, the bare producer alone, the bare producer beside the same inserts.

mod appended;
mod arrivals;
#[path = "../contest/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each bench uses a part of it")]
mod contest;
#[path = "../figures/mod.rs"]
#[allow(dead_code, reason = "each bench uses a part of it")]
mod figures;
#[path = "../index/mod.rs"]
#[allow(dead_code, reason = "each bench uses a part of it")]
mod index;
mod raw;
mod relay;
mod stages;
mod stamps;
mod visible;
mod writers;

use std::time::Duration;

use contest::{Result, log};
use figures::{
    report::Report,
    table::{load, number},
};
use outbox_core::event::LaneCount;
use outbox_sqlx::PostgresLog;
use serde_json::json;
use sqlx::PgPool;
use stages::Stages;
use test_services::{PostgresVersion, TestDatabase};

/// Left out of the figures: connections are opened, plans made, code and caches warmed.
const WARM_UP: Duration = Duration::from_secs(2);

/// One load: how many events a second for how long, so many of them in a transaction.
#[derive(Debug, Clone, Copy)]
struct Load {
    rate: u64,
    burst: u64,
    length: Duration,
}

impl Load {
    fn events(&self) -> u64 {
        (self.rate as f64 * (WARM_UP + self.length).as_secs_f64()) as u64 / self.burst * self.burst
    }
}

/// The log and its connections.
struct Bench {
    pool: PgPool,
    log: PostgresLog,
    /// `linger.ms` of all producers, `OUTBOX_BENCH_LINGER`; none: the publisher's default.
    linger: Option<String>,
}

fn main() -> Result<()> {
    let rates = std::env::var("OUTBOX_BENCH_RATES").unwrap_or_else(|_| "500,5000".to_owned());
    let rates: Vec<u64> = rates.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
    let (rounds, seconds) = (number("OUTBOX_BENCH_ROUNDS", 5)?.max(1), number("OUTBOX_BENCH_SECONDS", 10)?.max(1));
    let (postgres, burst) = (number("OUTBOX_BENCH_POSTGRES", 15)?, number("OUTBOX_BENCH_BURST", 0)? as u64);
    let linger = std::env::var("OUTBOX_BENCH_LINGER").ok();
    let is_visible = std::env::var("OUTBOX_BENCH_PART").is_ok_and(|part| part == "visible");
    let settings =
        json!({"rates": rates, "rounds": rounds, "seconds": seconds, "postgres": postgres, "linger": linger});
    let mut report = Report::begin(if is_visible { "visible" } else { "latency" }, settings);
    let version = if postgres == 18 { PostgresVersion::V18 } else { PostgresVersion::V15 };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let database = TestDatabase::create(version).await;
        let pool = database.connect(writers::WRITERS as u32 + 8).await;
        let log = log::filled(&pool, "latency", LaneCount::default(), 100_000).await?;
        let bench = Bench { pool, log, linger };
        if is_visible {
            visible::prepare(&bench.pool).await?;
        }
        for rate in rates {
            let burst = match burst {
                0 if rate > 500 => 10,
                0 => 1,
                burst => burst,
            };
            let load = Load { rate, burst, length: Duration::from_secs(seconds as u64) };
            if is_visible {
                bench.measure_visible(load, rounds, &mut report).await?;
            } else {
                bench.measure(load, rounds, &mut report).await?;
            }
        }
        bench.pool.close().await;
        database.drop_database().await;
        Result::Ok(())
    })?;
    report.end()
}

impl Bench {
    async fn measure_visible(&self, under: Load, rounds: usize, report: &mut Report) -> Result<()> {
        let mut stages = Stages::default();
        for round in 1..=rounds {
            eprintln!("{} events/s, round {round} of {rounds}, load {}", under.rate, load());
            for model in [visible::Model::Postgres, visible::Model::OpenSearch] {
                stages.projected(model.row_from_the_log(), &visible::from_the_log(self, under, model).await?);
                stages.projected(model.row_through_kafka(), &visible::through_kafka(self, under, model).await?);
            }
        }
        stages.table(under, report);
        Ok(())
    }

    async fn measure(&self, under: Load, rounds: usize, report: &mut Report) -> Result<()> {
        let mut stages = Stages::default();
        for round in 1..=rounds {
            eprintln!("{} events/s, round {round} of {rounds}, load {}", under.rate, load());
            stages.relay(&relay::run(self, under).await?);
            stages.raw(stages::RAW_ALONE, &raw::run(self, under, false).await?);
            stages.raw(stages::RAW_BESIDE, &raw::run(self, under, true).await?);
            stages.round_ends();
        }
        stages.tell(under, report)
    }
}
