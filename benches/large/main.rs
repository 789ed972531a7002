//! What a log in PostgreSQL costs when it is large: blocks read and WAL written for each event, at the start, at the end
//! and after retention, with and without a transaction that is open all the time.
//!
//! ```sh
//! cargo bench --bench large                     # 10,000,000 events, about 8 GB and 15 minutes, PostgreSQL 15
//! OUTBOX_BENCH_ROWS=1000000 OUTBOX_BENCH_POSTGRES=18 cargo bench --bench large
//! ```
//!
//! The counters decide; they do not depend on the machine. The rates do, and are shown beside them. The server is one of
//! its own, with the default settings except that no checkpoint falls into a measurement: after one, every page that is
//! touched first is written to the WAL whole.

#[path = "../figures/table.rs"]
#[allow(dead_code, reason = "each bench uses a part of it")]
mod table;

use outbox_core::{
    event::NewEvent,
    log::{ConsumerName, EventLog as _, LogAdmin as _, RetentionPolicy, StartAt, Track},
    outbox::Outbox as _,
};
use outbox_sqlx::PostgresLog;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, postgres::PgPoolOptions};
use table::{Stopwatch, load, number};
use test_services::{OwnPostgres, PostgresVersion};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const AT_ONCE: usize = 100;
const PAGE: usize = 1_000;
const PAGES: usize = 20;
/// Rounds of each phase.
const ROUNDS: usize = 5;
const FILL: usize = 100_000;
/// What retention leaves.
const KEPT: u64 = 100_000;

fn main() -> Result<()> {
    let rows = number("OUTBOX_BENCH_ROWS", 10_000_000)?;
    let version = match number("OUTBOX_BENCH_POSTGRES", 15)? {
        18 => PostgresVersion::V18,
        _ => PostgresVersion::V15,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        eprintln!("{rows} events, {ROUNDS} rounds a phase, PostgreSQL {version:?}; load {}", load());
        for held in [false, true] {
            // A server for each: their files would not fit on the disk together.
            let server = OwnPostgres::create(version).await;
            let phases = run(&server, rows, held).await?;
            print(&phases, version, held);
        }
        eprintln!("load {}", load());
        Ok(())
    })
}

struct Phase {
    name: String,
    buffers: Vec<f64>,
    wal: Vec<f64>,
    read_rate: Vec<f64>,
    append_rate: Vec<f64>,
}

async fn run(server: &OwnPostgres, rows: usize, held: bool) -> Result<Vec<Phase>> {
    let pool = PgPoolOptions::new().max_connections(4).connect(&server.url()).await?;
    for setting in ["max_wal_size = '8GB'", "checkpoint_timeout = '1h'", "autovacuum = on"] {
        pool.execute(AssertSqlSafe(format!("ALTER SYSTEM SET {setting}"))).await?;
    }
    pool.execute("SELECT pg_reload_conf()").await?;
    let log = PostgresLog::builder(pool.clone()).migrate().await?;
    let mut bench = Bench::on(server, log, pool).await?;

    // It has written an event, so readers wait for it, and its snapshot keeps every dead row.
    let mut open = PgConnection::connect(&server.url()).await?;
    if held {
        open.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        open.execute(AssertSqlSafe(insert(1, 1))).await?;
    }

    let mut phases = Vec::new();
    bench.fill(FILL).await?;
    phases.push(bench.measure("at the start").await?);
    bench.fill(rows.saturating_sub(FILL)).await?;
    phases.push(bench.measure(&format!("after {rows} events")).await?);
    bench.prune().await?;
    phases.push(bench.measure("after retention").await?);
    if held {
        open.execute("COMMIT").await?;
    }
    Ok(phases)
}

struct Bench {
    pool: PgPool,
    log: PostgresLog,
    /// Its one connection's work is what is counted.
    reader_pool: PgPool,
    reader: PostgresLog,
    consumer: ConsumerName,
    tracks: Vec<Track>,
    written: usize,
}

impl Bench {
    async fn on(server: &OwnPostgres, log: PostgresLog, pool: PgPool) -> Result<Self> {
        let reader_pool = PgPoolOptions::new().max_connections(1).connect(&server.url()).await?;
        let reader = PostgresLog::builder(reader_pool.clone()).open().await?;
        let consumer = ConsumerName::parse("large")?;
        reader.register(&consumer, StartAt::Beginning).await?;
        let tracks = reader.progress(&consumer).await?.tracks;
        Ok(Self { pool, log, reader_pool, reader, consumer, tracks, written: 0 })
    }

    /// By the server itself, 100,000 events at once; read and checkpointed at once.
    async fn fill(&mut self, rows: usize) -> Result<()> {
        let watch = Stopwatch::start();
        let mut rest = rows;
        while rest > 0 {
            let some = rest.min(FILL);
            self.pool.execute(AssertSqlSafe(insert(self.written + 1, some))).await?;
            self.written += some;
            rest -= some;
        }
        // The reader begins anew behind them: that they can be read quickly is another bench's business.
        self.reader.drop_consumer(&self.consumer).await?;
        self.reader.register(&self.consumer, StartAt::End).await?;
        self.tracks = self.reader.progress(&self.consumer).await?.tracks;
        self.pool.execute("ANALYZE outbox.outbox_event").await?;
        self.pool.execute("CHECKPOINT").await?;
        eprintln!("  {rows} events filled in {:.0} s", watch.took().as_secs_f64());
        Ok(())
    }

    async fn measure(&mut self, name: &str) -> Result<Phase> {
        let mut phase =
            Phase { name: name.to_owned(), buffers: vec![], wal: vec![], read_rate: vec![], append_rate: vec![] };
        let events: Vec<NewEvent> = (0..AT_ONCE).map(event).collect::<Result<_>>()?;
        // The pages where the last checkpoint left off, and the connection's statements.
        self.append(&events, PAGE).await?;
        self.read(PAGE).await?;
        let no_vacuum = "ALTER TABLE outbox.outbox_event SET (autovacuum_enabled = off)";
        self.pool.execute(no_vacuum).await?;
        for _ in 0..ROUNDS {
            let count = PAGE * PAGES;
            let (before, watch) = (self.wal().await?, Stopwatch::start());
            self.append(&events, count).await?;
            phase.append_rate.push(count as f64 / watch.took().as_secs_f64());
            phase.wal.push((self.wal().await? - before) as f64 / count as f64);

            let (before, watch) = (self.blocks().await?, Stopwatch::start());
            self.read(count).await?;
            phase.read_rate.push(count as f64 / watch.took().as_secs_f64());
            phase.buffers.push((self.blocks().await? - before) as f64 / PAGES as f64);
        }
        self.pool.execute("ALTER TABLE outbox.outbox_event RESET (autovacuum_enabled)").await?;
        eprintln!("  {name}: buffers {:?}, WAL {:?}", phase.buffers, phase.wal);
        Ok(phase)
    }

    async fn append(&mut self, events: &[NewEvent], count: usize) -> Result<()> {
        for _ in 0..count / events.len() {
            let mut tx = self.pool.begin().await?;
            let _receipt = self.log.append(&mut tx, events).await?;
            tx.commit().await?;
        }
        self.written += count;
        Ok(())
    }

    /// Reads what was appended, in pages.
    async fn read(&mut self, count: usize) -> Result<()> {
        let mut seen = 0;
        while seen < count {
            for (page, track) in self.reader.read(&self.tracks, PAGE).await?.into_iter().zip(&mut self.tracks) {
                seen += page.events.len();
                track.cursor = page.next;
            }
        }
        if seen == count { Ok(()) } else { Err(format!("{seen} events were read and {count} written").into()) }
    }

    async fn prune(&mut self) -> Result<()> {
        // Retention goes as far as the checkpoint.
        self.reader.drop_consumer(&self.consumer).await?;
        self.reader.register(&self.consumer, StartAt::End).await?;
        self.tracks = self.reader.progress(&self.consumer).await?.tracks;
        let (mut removed, watch) = (0, Stopwatch::start());
        loop {
            let pruned = self.log.prune(&RetentionPolicy::default().keep_events(KEPT)).await?;
            removed += pruned.removed;
            if !pruned.more {
                break;
            }
        }
        eprintln!("  {removed} events removed in {:.0} s", watch.took().as_secs_f64());
        self.pool.execute("VACUUM ANALYZE outbox.outbox_event").await?;
        self.pool.execute("CHECKPOINT").await?;
        Ok(())
    }

    async fn wal(&self) -> Result<i64> {
        let at = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
        Ok(sqlx::query_scalar(at).fetch_one(&self.pool).await?)
    }

    /// Blocks of the table and its indexes that were touched so far.
    async fn blocks(&self) -> Result<i64> {
        let flush = "SELECT pg_stat_force_next_flush()";
        for pool in [&self.reader_pool, &self.pool] {
            // Each of the pool's connections has counted for itself.
            let mut connections = Vec::new();
            for _ in 0..pool.size() {
                connections.push(pool.acquire().await?);
            }
            for connection in &mut connections {
                (&mut **connection).execute(flush).await?;
            }
        }
        let counted = "SELECT (heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::bigint
            FROM pg_statio_all_tables WHERE relid = 'outbox.outbox_event'::regclass";
        Ok(sqlx::query_scalar(counted).fetch_one(&self.pool).await?)
    }
}

fn insert(first: usize, count: usize) -> String {
    format!(
        "INSERT INTO outbox.outbox_event
            (lane, id, aggregate_type, aggregate_id, event_type, content_type, payload, created_at)
        SELECT n % 64, gen_random_uuid(), 'Tutor', (n / 4 % 10000)::text, 'TutorChanged', 'application/json',
            convert_to('{{\"n\": ' || n || ', \"text\": \"' || repeat('x', 215) || '\"}}', 'UTF8'), clock_timestamp()
        FROM generate_series({first}::bigint, {first} + {count} - 1) AS n"
    )
}

fn event(n: usize) -> Result<NewEvent> {
    Ok(NewEvent::json("Tutor", n, "TutorChanged", &serde_json::json!({"n": n, "text": "x".repeat(215)}))?)
}

fn print(phases: &[Phase], version: PostgresVersion, held: bool) {
    let held = if held { ", a transaction open throughout" } else { "" };
    println!("\nPostgreSQL {version:?}{held}\n");
    println!(
        "| | blocks / 1,000 events read | of the start | WAL bytes / event appended | of the start | events/s read | events/s appended |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let Some(start) = phases.first() else { return };
    for phase in phases {
        let (buffers, wal) = (median(&phase.buffers), median(&phase.wal));
        println!(
            "| {} | {} | {:.1} % | {} | {:.1} % | {:.0} | {:.0} |",
            phase.name,
            with_spread(&phase.buffers),
            100.0 * buffers / median(&start.buffers),
            with_spread(&phase.wal),
            100.0 * wal / median(&start.wal),
            median(&phase.read_rate),
            median(&phase.append_rate),
        );
    }
}

fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(figures: &[f64]) -> f64 {
    sorted(figures).get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn with_spread(figures: &[f64]) -> String {
    match sorted(figures)[..] {
        [first, .., last] => format!("{:.1} ({first:.1} – {last:.1})", median(figures)),
        _ => format!("{:.1}", median(figures)),
    }
}
