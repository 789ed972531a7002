//! How fast a log in PostgreSQL is read, beside a keyset scan of the same columns.
//!
//! ```sh
//! cargo bench --bench read                      # 500,000 events, 7 rounds, PostgreSQL 15
//! OUTBOX_BENCH_EVENTS=2000000 OUTBOX_BENCH_ROUNDS=11 OUTBOX_BENCH_POSTGRES=18 cargo bench --bench read
//! ```
//!
//! Rounds are interleaved: each runs every contestant once, so that a change in the machine's load touches all.

#[path = "../figures/cpu.rs"]
mod cpu;
#[path = "../figures/table.rs"]
mod table;

use chrono::{DateTime, Utc};
use cpu::cpu_seconds;
use futures_util::TryStreamExt as _;
use outbox_core::{
    event::LaneCount,
    log::{ConsumerName, EventLog as _, LogAdmin as _, StartAt, Track},
};
use outbox_sqlx::{PostgresLog, postgres::SchemaName};
use sqlx::{AssertSqlSafe, PgPool, Row as _};
use table::{Stopwatch, Table, load, number};
use test_services::{PostgresVersion, TestDatabase, unique};
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PAGE: usize = 5_000;

fn main() -> Result<()> {
    let events = number("OUTBOX_BENCH_EVENTS", 500_000)?;
    let rounds = number("OUTBOX_BENCH_ROUNDS", 7)?.max(1);
    let version = match number("OUTBOX_BENCH_POSTGRES", 15)? {
        18 => PostgresVersion::V18,
        _ => PostgresVersion::V15,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        eprintln!("{events} events, {rounds} rounds, PostgreSQL {version:?}; load {}", load());
        let database = TestDatabase::create(version).await;
        // As many connections as are used, so that it is known which processes of the server work.
        let pool = database.connect(2).await;
        let Tables { rates, cpu } = run(&pool, events, rounds).await?;
        rates.print(&format!("Reading, PostgreSQL {version:?}"), "events/s", KEYSET);
        cpu.print("Processor time of client and server together", "µs/event", KEYSET);
        eprintln!("load {}", load());
        database.drop_database().await;
        Ok(())
    })
}

const KEYSET: &str = "keyset scan";

#[derive(Default)]
struct Tables {
    rates: Table,
    /// What the rates would be on a machine that does nothing else does not depend on its load.
    cpu: Table,
}

async fn run(pool: &PgPool, events: usize, rounds: usize) -> Result<Tables> {
    let many = filled(pool, "many_lanes", 64, events).await?;
    let one = filled(pool, "one_lane", 1, events).await?;
    let mut tables = Tables::default();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let start = Start::now(pool).await?;
        keyset_scan(pool, "many_lanes", events).await?;
        start.end(KEYSET, &mut tables, events);

        let start = Start::now(pool).await?;
        read(&many, events).await?;
        start.end("log of 64 lanes", &mut tables, events);

        let start = Start::now(pool).await?;
        read(&one, events).await?;
        start.end("log of 1 lane", &mut tables, events);
    }
    Ok(tables)
}

struct Start {
    processes: Vec<String>,
    cpu: f64,
    watch: Stopwatch,
}

impl Start {
    async fn now(pool: &PgPool) -> Result<Self> {
        let sessions = "SELECT pid::text FROM pg_stat_activity WHERE datname = current_database()";
        let mut processes: Vec<String> = sqlx::query_scalar(sessions).fetch_all(pool).await?;
        processes.push("self".to_owned());
        Ok(Self { cpu: seconds(&processes), processes, watch: Stopwatch::start() })
    }

    fn end(self, contestant: &str, tables: &mut Tables, events: usize) {
        tables.rates.record(contestant, events, self.watch.took());
        tables.cpu.record_figure(contestant, 1e6 * (seconds(&self.processes) - self.cpu) / events as f64);
    }
}

fn seconds(processes: &[String]) -> f64 {
    processes.iter().filter_map(|process| cpu_seconds(process)).sum()
}

/// Written by the server itself: what is measured is reading.
async fn filled(pool: &PgPool, schema: &str, lanes: u8, events: usize) -> Result<PostgresLog> {
    let lanes = LaneCount::new(lanes).ok_or("a number of lanes")?;
    let log = PostgresLog::builder(pool.clone()).schema(SchemaName::parse(schema)?).lanes(lanes).migrate().await?;
    let insert = AssertSqlSafe(format!(
        "INSERT INTO {schema}.outbox_event
            (lane, id, aggregate_type, aggregate_id, event_type, content_type, payload, created_at)
        SELECT n % {}, gen_random_uuid(), 'Tutor', (n / 4 % 10000)::text, 'TutorChanged', 'application/json',
            convert_to('{{\"n\": ' || n || ', \"text\": \"' || repeat('x', 215) || '\"}}', 'UTF8'), clock_timestamp()
        FROM generate_series(1, $1::bigint) AS n",
        lanes.get()
    ));
    sqlx::query(insert).bind(events as i64).execute(pool).await?;
    sqlx::query(AssertSqlSafe(format!("VACUUM ANALYZE {schema}.outbox_event"))).execute(pool).await?;
    Ok(log)
}

/// Pages of the same size, every column decoded, nothing kept.
async fn keyset_scan(pool: &PgPool, schema: &str, events: usize) -> Result<()> {
    let sql = format!(
        "SELECT position, lane, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type, payload,
            headers, created_at, unordered
        FROM {schema}.outbox_event WHERE position > $1 ORDER BY position LIMIT $2"
    );
    let sql = sqlx::SqlSafeStr::into_sql_str(AssertSqlSafe(sql));
    let (mut position, mut seen) = (0_i64, 0);
    while seen < events {
        let mut rows = sqlx::query(sql.clone()).bind(position).bind(PAGE as i64).fetch(pool);
        while let Some(row) = rows.try_next().await? {
            let _lane: i16 = row.try_get(1)?;
            let _id: Uuid = row.try_get(2)?;
            let _names: (&str, &str) = (row.try_get(3)?, row.try_get(4)?);
            let _ordering_key: Option<&str> = row.try_get(5)?;
            let _types: (&str, &str) = (row.try_get(6)?, row.try_get(7)?);
            let payload: Option<&[u8]> = row.try_get(8)?;
            let headers: &[u8] = row.try_get(9)?;
            std::hint::black_box((payload, headers));
            let _created_at: DateTime<Utc> = row.try_get(10)?;
            let _unordered: bool = row.try_get(11)?;
            position = row.try_get(0)?;
            seen += 1;
        }
    }
    Ok(())
}

async fn read(log: &PostgresLog, events: usize) -> Result<()> {
    let consumer = ConsumerName::parse(unique("read"))?;
    log.register(&consumer, StartAt::Beginning).await?;
    let mut tracks: Vec<Track> = log.progress(&consumer).await?.tracks;
    let mut seen = 0;
    while seen < events {
        for (page, track) in log.read(&tracks, PAGE).await?.into_iter().zip(&mut tracks) {
            seen += page.events.len();
            track.cursor = page.next;
            std::hint::black_box(page.events);
        }
    }
    log.drop_consumer(&consumer).await?;
    Ok(())
}
