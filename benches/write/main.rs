//! What a log in PostgreSQL costs its writers.
//!
//! ```sh
//! cargo bench --bench write                     # 2,000 transactions a contestant, 7 rounds, PostgreSQL 15
//! OUTBOX_BENCH_TRANSACTIONS=10000 OUTBOX_BENCH_ROUNDS=11 OUTBOX_BENCH_POSTGRES=18 cargo bench --bench write
//! ```
//!
//! The server is one of its own, with the default settings: every commit waits for the disk. Rounds are interleaved: each
//! runs every contestant once, so that a change in the machine's load touches all.

mod raw;
#[path = "../figures/table.rs"]
mod table;

use std::sync::Arc;

use outbox_core::{event::NewEvent, outbox::Outbox as _};
use outbox_sqlx::PostgresLog;
use sqlx::{Executor as _, PgPool, Postgres, Transaction, postgres::PgPoolOptions};
use table::{Stopwatch, Table, load, number};
use test_services::{OwnPostgres, PostgresVersion};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const CLIENTS: [usize; 3] = [1, 8, 32];
const AGGREGATES: usize = 10_000;
/// Events of one append.
const BULK: usize = 100;

fn main() -> Result<()> {
    let transactions = number("OUTBOX_BENCH_TRANSACTIONS", 2_000)?;
    let rounds = number("OUTBOX_BENCH_ROUNDS", 7)?.max(1);
    let version = match number("OUTBOX_BENCH_POSTGRES", 15)? {
        18 => PostgresVersion::V18,
        _ => PostgresVersion::V15,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        eprintln!("{transactions} transactions, {rounds} rounds, PostgreSQL {version:?}; load {}", load());
        let server = OwnPostgres::create(version).await;
        let bench = Bench::prepare(&server).await?;
        let mut tables = Tables::default();
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}");
            bench.round(transactions, &mut tables).await?;
        }
        tables.print(version);
        eprintln!("load {}", load());
        Ok(())
    })
}

#[derive(Default)]
struct Tables {
    /// For each number of clients.
    single: [Table; CLIENTS.len()],
    bulk: Table,
    wal: Table,
}

impl Tables {
    fn print(&self, version: PostgresVersion) {
        for (clients, table) in CLIENTS.iter().zip(&self.single) {
            let title = format!("One event a transaction, {clients} clients, PostgreSQL {version:?}");
            table.print(&title, "transactions/s", Contestant::Update.name());
        }
        self.bulk.print(&format!("{BULK} events a transaction"), "events/s", "raw multi-row INSERT");
        self.wal.print("WAL", "bytes/event", "100 events, raw multi-row INSERT");
    }
}

/// What a transaction does.
#[derive(Clone, Copy)]
enum Contestant {
    Update,
    /// The same columns into a table that is made like the log's.
    UpdateAndRawInsert,
    UpdateAndAppend,
    UpdateAndAppendAlreadyLocked,
}

impl Contestant {
    const ALL: [Self; 4] =
        [Self::Update, Self::UpdateAndRawInsert, Self::UpdateAndAppend, Self::UpdateAndAppendAlreadyLocked];

    fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::UpdateAndRawInsert => "update and raw INSERT",
            Self::UpdateAndAppend => "update and append",
            Self::UpdateAndAppendAlreadyLocked => "update and append, already locked",
        }
    }
}

#[derive(Clone)]
struct Bench {
    pool: PgPool,
    log: PostgresLog,
    locked: PostgresLog,
}

impl Bench {
    async fn prepare(server: &OwnPostgres) -> Result<Self> {
        let pool =
            PgPoolOptions::new().max_connections(CLIENTS[CLIENTS.len() - 1] as u32).connect(&server.url()).await?;
        // Between two checkpoints a page that is touched first is written to the WAL whole: by chance, here and there.
        pool.execute("ALTER SYSTEM SET max_wal_size = '16GB'").await?;
        pool.execute("ALTER SYSTEM SET checkpoint_timeout = '1h'").await?;
        pool.execute("SELECT pg_reload_conf()").await?;
        let log = PostgresLog::builder(pool.clone()).migrate().await?;
        pool.execute("CREATE TABLE tutor (id bigint PRIMARY KEY, version bigint NOT NULL) WITH (fillfactor = 50)")
            .await?;
        let tutors = "INSERT INTO tutor SELECT n, 0 FROM generate_series(0, $1::bigint - 1) AS n";
        sqlx::query(tutors).bind(AGGREGATES as i64).execute(&pool).await?;
        pool.execute("CREATE TABLE raw_event (LIKE outbox.outbox_event INCLUDING ALL)").await?;
        pool.execute("VACUUM ANALYZE").await?;
        let bench = Self { locked: log.already_locked(), pool, log };
        // Every page of the tutors once, and every connection.
        let mut unmeasured = Table::default();
        bench.single(Contestant::UpdateAndAppend, 32, 20_000, &mut unmeasured).await?;
        Ok(bench)
    }

    async fn round(&self, transactions: usize, tables: &mut Tables) -> Result<()> {
        for (clients, table) in CLIENTS.into_iter().zip(&mut tables.single) {
            eprintln!(" {clients} clients");
            for contestant in Contestant::ALL {
                let wal = self.single(contestant, clients, transactions, table).await?;
                if clients == 1 && matches!(contestant, Contestant::Update | Contestant::UpdateAndAppend) {
                    let name = format!("1 event, {}", contestant.name());
                    tables.wal.record_figure(name, wal as f64 / transactions as f64);
                }
            }
        }
        let transactions = (transactions / 10).max(1);
        let events = transactions * BULK;
        let many: Vec<NewEvent> = (0..BULK).map(event).collect::<Result<_>>()?;

        let (before, watch) = (self.wal().await?, Stopwatch::start());
        for _ in 0..transactions {
            let mut tx = self.pool.begin().await?;
            raw::insert_all(&mut tx, &many).await?;
            tx.commit().await?;
        }
        tables.bulk.record("raw multi-row INSERT", events, watch.took());
        let wal = (self.wal().await? - before) as f64 / events as f64;
        tables.wal.record_figure("100 events, raw multi-row INSERT", wal);

        let watch = Stopwatch::start();
        for _ in 0..transactions {
            let mut tx = self.pool.begin().await?;
            raw::insert_values(&mut tx, &many).await?;
            tx.commit().await?;
        }
        tables.bulk.record("raw multi-row INSERT, one parameter a value", events, watch.took());

        for (name, log) in [("append", &self.log), ("append, already locked", &self.locked)] {
            let (before, watch) = (self.wal().await?, Stopwatch::start());
            for _ in 0..transactions {
                let mut tx = self.pool.begin().await?;
                let _receipt = log.append(&mut tx, &many).await?;
                tx.commit().await?;
            }
            tables.bulk.record(name, events, watch.took());
            let wal = (self.wal().await? - before) as f64 / events as f64;
            tables.wal.record_figure(format!("100 events, {name}"), wal);
        }
        Ok(())
    }

    /// Runs transactions on so many connections at once and returns the bytes of WAL they wrote.
    async fn single(
        &self,
        contestant: Contestant,
        clients: usize,
        transactions: usize,
        table: &mut Table,
    ) -> Result<i64> {
        let before = self.wal().await?;
        let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let watch = Stopwatch::start();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..clients {
            let (bench, next) = (self.clone(), next.clone());
            tasks.spawn(async move {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if n >= transactions {
                        return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(());
                    }
                    let mut tx = bench.pool.begin().await?;
                    bench.change(contestant, &mut tx, n).await?;
                    tx.commit().await?;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        table.record(contestant.name(), transactions, watch.took());
        Ok(self.wal().await? - before)
    }

    async fn change(&self, contestant: Contestant, tx: &mut Transaction<'_, Postgres>, n: usize) -> Result<()> {
        // Neighbours in time change different tutors.
        let tutor = n * 7919 % AGGREGATES;
        sqlx::query("UPDATE tutor SET version = version + 1 WHERE id = $1")
            .bind(tutor as i64)
            .execute(&mut **tx)
            .await?;
        match contestant {
            Contestant::Update => {}
            Contestant::UpdateAndRawInsert => raw::insert_all(tx, &[event(tutor)?]).await?,
            Contestant::UpdateAndAppend => drop(self.log.append(tx, &[event(tutor)?]).await?),
            Contestant::UpdateAndAppendAlreadyLocked => drop(self.locked.append(tx, &[event(tutor)?]).await?),
        }
        Ok(())
    }

    async fn wal(&self) -> Result<i64> {
        let at = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
        Ok(sqlx::query_scalar(at).fetch_one(&self.pool).await?)
    }
}

/// About 300 bytes.
fn event(tutor: usize) -> Result<NewEvent> {
    let payload = serde_json::json!({"tutor": tutor, "text": "x".repeat(210)});
    Ok(NewEvent::json("Tutor", tutor, "TutorChanged", &payload)?)
}
