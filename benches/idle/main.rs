//! What an idle relay costs the database and its own process, and how soon it sees an event, for each way to wake it.
//!
//! ```sh
//! cargo bench --bench idle                      # 20 s a round, 5 rounds, about 9 minutes, PostgreSQL 15
//! OUTBOX_BENCH_SECONDS=60 OUTBOX_BENCH_POSTGRES=18 cargo bench --bench idle
//! ```
//!
//! Queries are counted by the server, `BEGIN` and `COMMIT` among them. Rounds are interleaved.

#[path = "../figures/cpu.rs"]
mod cpu;
#[path = "../figures/table.rs"]
#[allow(dead_code, reason = "each bench uses a part of it")]
mod table;

use std::{sync::Arc, time::Duration};

use cpu::cpu_seconds;
use outbox_core::{
    event::NewEvent,
    log::{ConsumerName, StartAt},
    memory::NullPublisher,
    outbox::Outbox as _,
    profile::Profile,
    relay::Relay,
};
use outbox_sqlx::{
    PostgresLog,
    postgres::{Listening, NotifySettings},
};
use sqlx::{Executor as _, PgPool, postgres::PgPoolOptions};
use table::{Stopwatch, Table, load, number};
use test_services::{OwnPostgres, PostgresVersion, unique};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The pauses between two looks have grown to the full poll by then.
const SETTLE: Duration = Duration::from_secs(3);
/// Events of which the time is taken, in each round.
const EVENTS: u64 = 5;
/// Between them, so that each finds the relay idle; no multiple of the poll.
const BETWEEN: Duration = Duration::from_millis(1_730);

fn main() -> Result<()> {
    let seconds = number("OUTBOX_BENCH_SECONDS", 20)?.max(1);
    let rounds = number("OUTBOX_BENCH_ROUNDS", 5)?.max(1);
    let version = match number("OUTBOX_BENCH_POSTGRES", 15)? {
        18 => PostgresVersion::V18,
        _ => PostgresVersion::V15,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        eprintln!("{seconds} s a round, {rounds} rounds, PostgreSQL {version:?}; load {}", load());
        let mut server = OwnPostgres::create(version).await;
        let bench = Bench::prepare(&mut server, Duration::from_secs(seconds as u64)).await?;
        let mut tables = Tables::default();
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}");
            for rung in Rung::ALL {
                bench.measure(rung, &mut tables).await?;
            }
        }
        let yardstick = Rung::Polling.name();
        tables.queries.print(&format!("An idle relay, PostgreSQL {version:?}"), "queries/minute", yardstick);
        tables.cpu.print("Its process", "ms of processor time/minute", yardstick);
        tables.latency.print("From commit to published", "ms", yardstick);
        eprintln!("load {}", load());
        Ok(())
    })
}

#[derive(Default)]
struct Tables {
    queries: Table,
    cpu: Table,
    latency: Table,
}

/// What wakes the relay.
#[derive(Clone, Copy)]
enum Rung {
    Polling,
    Notify,
    Bell,
}

impl Rung {
    const ALL: [Self; 3] = [Self::Polling, Self::Notify, Self::Bell];

    fn name(self) -> &'static str {
        match self {
            Self::Polling => "polling, up to 1 s",
            Self::Notify => "NOTIFY, and polling up to 30 s",
            Self::Bell => "in-process bell, and polling up to 30 s",
        }
    }

    fn poll(self) -> Duration {
        match self {
            Self::Polling => Duration::from_secs(1),
            Self::Notify | Self::Bell => Duration::from_secs(30),
        }
    }
}

struct Bench {
    /// Of the writers and of who counts.
    pool: PgPool,
    url: String,
    idle: Duration,
}

/// Logs as two processes would have them, or one.
struct Processes {
    writer: PostgresLog,
    reader: PostgresLog,
    _listening: Option<Listening>,
}

impl Bench {
    async fn prepare(server: &mut OwnPostgres, idle: Duration) -> Result<Self> {
        let pool = PgPoolOptions::new().connect(&server.url()).await?;
        pool.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'").await?;
        pool.close().await;
        server.stop().await;
        server.start().await;
        let pool = PgPoolOptions::new().max_connections(2).connect(&server.url()).await?;
        pool.execute("CREATE EXTENSION pg_stat_statements").await?;
        PostgresLog::builder(pool.clone()).migrate().await?;
        Ok(Self { pool, url: server.url(), idle })
    }

    async fn processes(&self, rung: Rung) -> Result<Processes> {
        let pool = PgPoolOptions::new().max_connections(4).connect(&self.url).await?;
        let reader = PostgresLog::builder(pool.clone()).open().await?;
        match rung {
            Rung::Bell => Ok(Processes { writer: reader.clone(), reader, _listening: None }),
            Rung::Polling => {
                let writer = PostgresLog::builder(self.pool.clone()).open().await?;
                Ok(Processes { writer, reader, _listening: None })
            }
            Rung::Notify => {
                let writer = PostgresLog::builder(self.pool.clone()).notify(NotifySettings::default()).open().await?;
                let mut listening = reader.listen((*pool.connect_options()).clone());
                listening.connected().await;
                Ok(Processes { writer, reader, _listening: Some(listening) })
            }
        }
    }

    async fn measure(&self, rung: Rung, tables: &mut Tables) -> Result<()> {
        let processes = self.processes(rung).await?;
        let relay = Relay::builder(Arc::new(processes.reader.clone()), Arc::new(NullPublisher), Profile::default())
            .consumer(ConsumerName::parse(unique("idle"))?)
            .start_at(StartAt::End)
            .poll(rung.poll())
            .build();
        let mut status = relay.status();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(async move {
            relay
                .run(async move {
                    let _ = stopped.await;
                })
                .await
        });
        status.wait_for(|status| !status.lanes.is_empty()).await?;
        tokio::time::sleep(SETTLE).await;

        let (cpu, before) = (cpu_seconds("self"), self.queries().await?);
        tokio::time::sleep(self.idle).await;
        let (queries, cpu_after) = (self.queries().await? - before, cpu_seconds("self"));
        let a_minute = 60.0 / self.idle.as_secs_f64();
        tables.queries.record_figure(rung.name(), queries as f64 * a_minute);
        if let (Some(before), Some(after)) = (cpu, cpu_after) {
            tables.cpu.record_figure(rung.name(), 1e3 * (after - before) * a_minute);
        }

        let mut times = Vec::new();
        for nth in 1..=EVENTS {
            tokio::time::sleep(BETWEEN).await;
            let mut tx = self.pool.begin().await?;
            let event = NewEvent::json("Tutor", nth, "TutorChanged", &serde_json::json!({"n": nth}))?;
            let receipt = processes.writer.append(&mut tx, &[event]).await?;
            tx.commit().await?;
            let watch = Stopwatch::start();
            receipt.committed();
            status.wait_for(|status| status.published >= nth).await?;
            times.push(1e3 * watch.took().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        tables.latency.record_figure(rung.name(), times[times.len() / 2]);
        let _relay_has_ended = stop.send(());
        running.await??;
        Ok(())
    }

    /// All that were made so far, but those that ask.
    async fn queries(&self) -> Result<i64> {
        let made = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_%'";
        Ok(sqlx::query_scalar(made).fetch_one(&self.pool).await?)
    }
}
