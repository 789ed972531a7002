//! A large log, and writers beside its retention.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use outbox_core::{
    event::NewEvent,
    log::{ConsumerName, EventLog as _, LogAdmin as _, StartAt},
    outbox::Outbox as _,
};
use outbox_sqlx::PostgresLog;
use sqlx::{AssertSqlSafe, PgPool, SqlSafeStr as _, postgres::PgPoolOptions};
use test_services::OwnPostgres;
use tokio::task::JoinSet;

use super::Result;

/// A payload that makes events of about 300 bytes.
const PAYLOAD_BYTES: usize = 215;

/// Each with a pause between two transactions, so that their latency is that of the server and not of a queue.
const WRITERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) struct Server(pub(crate) OwnPostgres);

impl Server {
    async fn connect(&self, database: &str) -> Result<PgPool> {
        let url = self.0.url();
        let at = url.rfind('/').ok_or("an address")?;
        Ok(PgPoolOptions::new().max_connections(12).connect(&format!("{}/{database}", &url[..at])).await?)
    }

    async fn execute(&self, sql: String) -> Result<()> {
        let pool = self.connect("postgres").await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await?;
        pool.close().await;
        Ok(())
    }

    /// Makes the log that [`Server::copy`] copies.
    pub(crate) async fn fill(&self, ring: bool, rows: u64) -> Result<()> {
        let began = Instant::now();
        self.execute("DROP DATABASE IF EXISTS filled WITH (FORCE)".to_owned()).await?;
        self.execute("CREATE DATABASE filled".to_owned()).await?;
        let pool = self.connect("filled").await?;
        let builder = PostgresLog::builder(pool.clone());
        let _log = if ring { builder.ring() } else { builder }.migrate().await?;
        let insert = AssertSqlSafe(format!(
            "INSERT INTO outbox.outbox_event
                (lane, id, aggregate_type, aggregate_id, event_type, content_type, payload, created_at)
            SELECT n % 64, gen_random_uuid(), 'Tutor', (n / 4 % 10000)::text, 'TutorChanged', 'application/json',
                convert_to('{{\"n\": ' || n || ', \"text\": \"' || repeat('x', {PAYLOAD_BYTES}) || '\"}}', 'UTF8'),
                clock_timestamp()
            FROM generate_series(1, $1::bigint) AS n"
        ))
        .into_sql_str();
        let mut left = rows;
        while left > 0 {
            let chunk = left.min(100_000);
            sqlx::query(insert.clone()).bind(chunk as i64).execute(&pool).await?;
            left -= chunk;
        }
        sqlx::query("VACUUM ANALYZE outbox.outbox_event").execute(&pool).await?;
        pool.close().await;
        eprintln!("filled in {:?}", began.elapsed());
        Ok(())
    }

    /// The log as it was filled.
    pub(crate) async fn copy(&self) -> Result<PgPool> {
        self.execute("DROP DATABASE IF EXISTS pruned WITH (FORCE)".to_owned()).await?;
        self.execute("CREATE DATABASE pruned TEMPLATE filled STRATEGY file_copy".to_owned()).await?;
        self.execute("CHECKPOINT".to_owned()).await?;
        self.connect("pruned").await
    }
}

pub(crate) async fn with_a_consumer_at_the_end(pool: &PgPool) -> Result<PostgresLog> {
    let log = PostgresLog::builder(pool.clone()).open().await?;
    log.register(&ConsumerName::parse("relay")?, StartAt::End).await?;
    Ok(log)
}

pub(crate) async fn move_to_the_end(log: &PostgresLog) -> Result<()> {
    log.drop_consumer(&ConsumerName::parse("relay")?).await?;
    log.register(&ConsumerName::parse("relay")?, StartAt::End).await?;
    Ok(())
}

/// The statement that is usual elsewhere, at the end of a log whose dead rows nobody could vacuum away; undone.
pub(crate) async fn oldest_first(pool: &PgPool) -> Result<Option<Duration>> {
    let mut tx = pool.begin().await?;
    sqlx::query("SET LOCAL enable_seqscan = off").execute(&mut *tx).await?;
    let began = Instant::now();
    sqlx::query(
        "DELETE FROM outbox.outbox_event WHERE position IN
            (SELECT position FROM outbox.outbox_event ORDER BY position LIMIT 1)",
    )
    .execute(&mut *tx)
    .await?;
    let took = began.elapsed();
    tx.rollback().await?;
    Ok(Some(took))
}

/// Transactions of one event each, and how long each took.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<std::result::Result<Vec<Duration>, String>>,
}

impl Writers {
    pub(crate) fn start(log: &PostgresLog, pool: &PgPool) -> Self {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for writer in 0..WRITERS {
            let (log, pool, stop) = (log.clone(), pool.clone(), stop.clone());
            tasks.spawn(async move {
                let mut took = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    write(&log, &pool, writer).await.map_err(|error| error.to_string())?;
                    took.push(began.elapsed());
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(took)
            });
        }
        Self { stop, tasks }
    }

    pub(crate) async fn for_a_while(self, time: Duration) -> Result<Vec<Duration>> {
        tokio::time::sleep(time).await;
        self.stop().await
    }

    pub(crate) async fn stop(self) -> Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        let took: std::result::Result<Vec<_>, _> = self.tasks.join_all().await.into_iter().collect();
        Ok(took?.concat())
    }
}

async fn write(
    log: &PostgresLog,
    pool: &PgPool,
    writer: usize,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let event =
        NewEvent::json("Tutor", writer, "TutorChanged", &serde_json::json!({"text": "x".repeat(PAYLOAD_BYTES)}))?;
    let mut tx = pool.begin().await?;
    let _receipt = log.append(&mut tx, &[event]).await?;
    tx.commit().await?;
    Ok(())
}
