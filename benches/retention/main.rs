//! What removing events costs at the start, in the middle and at the end of a large log, while somebody holds back
//! vacuum, and what writers feel of it.
//!
//! ```sh
//! cargo bench --bench retention                 # 10,000,000 events, PostgreSQL 15; takes 10 GB and some minutes
//! OUTBOX_BENCH_ROWS=1000000 OUTBOX_BENCH_POSTGRES=18 cargo bench --bench retention
//! ```
//!
//! Each contestant starts with a copy of the same log, on a server of its own, so that the WAL is that of retention.

mod log;
mod report;

use std::time::{Duration, Instant};

use outbox_core::log::{LogAdmin as _, RetentionPolicy};
use outbox_sqlx::PostgresLog;
use sqlx::{PgPool, Postgres, Transaction};
use test_services::{OwnPostgres, PostgresVersion};

use self::{
    log::{Server, Writers},
    report::{Step, load, report},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Who is in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Nobody,
    /// A transaction that only reads, such as a dump: nothing that is removed can be vacuumed.
    ByReader,
    /// A transaction that has written: besides, nothing is final.
    ByWriter,
}

fn main() -> Result<()> {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().map_err(|e| format!("{name}={text}: {e}")),
        Err(_) => Ok(default),
    };
    let rows = number("OUTBOX_BENCH_ROWS", 10_000_000)?;
    let version = if number("OUTBOX_BENCH_POSTGRES", 15)? == 18 { PostgresVersion::V18 } else { PostgresVersion::V15 };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        eprintln!("{rows} events, PostgreSQL {version:?}; load {}", load());
        let server = Server(OwnPostgres::create(version).await);
        let contestants = [
            ("plain table", false, Held::Nobody),
            ("plain table, a reader holds vacuum back", false, Held::ByReader),
            ("plain table, a writer is open", false, Held::ByWriter),
            ("ring", true, Held::Nobody),
            ("ring, a reader holds vacuum back", true, Held::ByReader),
        ];
        let mut filled = None;
        report::heading();
        for (name, ring, held) in contestants {
            if filled != Some(ring) {
                server.fill(ring, rows).await?;
                filled = Some(ring);
            }
            let pool = server.copy().await?;
            run(name, pool.clone(), held, rows).await?;
            pool.close().await;
        }
        eprintln!("load {}", load());
        Ok(())
    })
}

async fn run(name: &str, pool: PgPool, held: Held, rows: u64) -> Result<()> {
    let writer_open = if held == Held::ByWriter { Some(open(&pool, held).await?) } else { None };
    let log = log::with_a_consumer_at_the_end(&pool).await?;
    let reader_open = if held == Held::ByReader { Some(open(&pool, held).await?) } else { None };

    let before = Writers::start(&log, &pool).for_a_while(Duration::from_secs(5)).await?;
    let writers = Writers::start(&log, &pool);
    let steps = prune_all(&log, &pool, rows).await?;
    let oldest_first = if held == Held::ByReader { log::oldest_first(&pool).await? } else { None };
    let beside = writers.stop().await?;
    report(name, &steps, (&before, &beside), oldest_first);

    if let Some(writer) = writer_open {
        writer.rollback().await?;
        log::move_to_the_end(&log).await?;
        let again = prune_all(&log, &pool, rows).await?;
        report("… the second walk, when the writer has ended", &again, (&before, &beside), None);
    }
    drop(reader_open);
    Ok(())
}

async fn open(pool: &PgPool, held: Held) -> Result<Transaction<'static, Postgres>> {
    let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    let statement = if held == Held::ByWriter { "SELECT pg_current_xact_id()" } else { "SELECT 1" };
    sqlx::query(statement).execute(&mut *tx).await?;
    Ok(tx)
}

/// A call at a time, of four steps: the first ones are narrower.
async fn prune_all(log: &PostgresLog, pool: &PgPool, rows: u64) -> Result<Vec<Step>> {
    let policy = RetentionPolicy::default().steps(4);
    let mut steps = Vec::new();
    loop {
        let (marks, wal, began) = (marks(pool).await?, wal(pool).await?, Instant::now());
        let pruned = log.prune(&policy).await?;
        let took = began.elapsed();
        let (pruned_to, swept_to) = self::marks(pool).await?;
        let walked = (pruned_to - marks.0).max(swept_to - marks.1);
        steps.push(Step {
            from: marks.0.min(rows),
            walked,
            removed: pruned.removed,
            took,
            wal: self::wal(pool).await? - wal,
        });
        if !pruned.more {
            return Ok(steps);
        }
    }
}

async fn marks(pool: &PgPool) -> Result<(u64, u64)> {
    let (pruned, swept): (i64, i64) =
        sqlx::query_as("SELECT pruned, swept FROM outbox.outbox_retention").fetch_one(pool).await?;
    Ok((pruned as u64, swept as u64))
}

async fn wal(pool: &PgPool) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetch_one(pool).await?)
}
