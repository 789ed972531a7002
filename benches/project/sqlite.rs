//! A SQLite log → a read model in the same file.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{
    event::{NewEvent, ReceivedEvent},
    log::ConsumerName,
    log_source::LogSource,
    outbox::Outbox,
};
use outbox_projector::{
    Projector,
    sql::{Handled, Handler, HandlerError, ProjectionName, SqliteProjection},
};
use outbox_sqlx::SqliteLog;
use sqlx::{QueryBuilder, Sqlite, SqlitePool, Transaction, sqlite::SqlitePoolOptions};
use test_services::unique;

use crate::{
    Size, aggregate,
    figures::table::{Stopwatch, Table},
    payload,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub(crate) const RAW: &str = "raw: page + upsert + position";
const BATCH: usize = 1_000;

pub(crate) async fn run(size: &Size) -> Result<Table> {
    let folder = tempfile::tempdir()?;
    let options = SqliteLog::connect_options(folder.path().join("drain.sqlite"));
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
    let read = SqlitePoolOptions::new().max_connections(2).connect_with(options).await?;
    let log = SqliteLog::builder(pool.clone()).read_pool(read.clone()).build();
    log.migrate().await?;
    SqliteProjection::migrate(&pool).await?;
    sqlx::query("CREATE TABLE raw_position (position INTEGER NOT NULL)").execute(&pool).await?;
    sqlx::query("INSERT INTO raw_position VALUES (0)").execute(&pool).await?;
    for start in (0..size.events).step_by(5_000) {
        let chunk: std::result::Result<Vec<NewEvent>, _> = (start..size.events.min(start + 5_000))
            .map(|n| NewEvent::json("Agg", aggregate(n), "AggChanged", &payload(n)))
            .collect();
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
        let _receipt = log.append(&mut tx, &chunk?).await?;
        tx.commit().await?;
    }

    let mut table = Table::default();
    for round in 1..=size.rounds {
        eprintln!("round {round} of {}, SQLite log → SQL projection", size.rounds);
        read_model(&pool).await?;
        let watch = Stopwatch::start();
        raw(&pool, &read, size.events).await?;
        table.record(RAW, size.events, watch.took());

        read_model(&pool).await?;
        let watch = Stopwatch::start();
        project(&pool, &log, size.events).await?;
        table.record("projection, with watermarks", size.events, watch.took());
    }
    Ok(table)
}

async fn read_model(pool: &SqlitePool) -> Result<()> {
    sqlx::query("DROP TABLE IF EXISTS latest").execute(pool).await?;
    sqlx::query("CREATE TABLE latest (id TEXT PRIMARY KEY, body BLOB NOT NULL)").execute(pool).await?;
    Ok(())
}

async fn upsert(tx: &mut Transaction<'_, Sqlite>, rows: &[(&str, &[u8])]) -> std::result::Result<(), sqlx::Error> {
    let mut insert = QueryBuilder::new("INSERT INTO latest (id, body) ");
    insert.push_values(rows, |mut row, (id, body)| {
        row.push_bind(*id).push_bind(*body);
    });
    insert.push(" ON CONFLICT (id) DO UPDATE SET body = excluded.body");
    insert.build().execute(&mut **tx).await.map(drop)
}

/// One page ahead of nothing: read, write with the position, commit.
async fn raw(pool: &SqlitePool, read: &SqlitePool, events: usize) -> Result<()> {
    let (mut position, mut seen) = (0_i64, 0);
    while seen < events {
        let rows: Vec<(i64, String, Vec<u8>)> = sqlx::query_as(
            "SELECT position, aggregate_id, payload FROM outbox_event WHERE position > $1 ORDER BY position LIMIT $2",
        )
        .bind(position)
        .bind(BATCH as i64)
        .fetch_all(read)
        .await?;
        position = rows.last().map_or(position, |row| row.0);
        seen += rows.len();
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
        let rows: Vec<(&str, &[u8])> = rows.iter().map(|(_, id, body)| (id.as_str(), body.as_slice())).collect();
        upsert(&mut tx, &rows).await?;
        sqlx::query("UPDATE raw_position SET position = $1").bind(position).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(())
}

struct Latest;

#[async_trait]
impl Handler<Sqlite> for Latest {
    async fn handle(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        event: &ReceivedEvent,
    ) -> std::result::Result<Handled, HandlerError> {
        self.handle_all(tx, &[event]).await?;
        Ok(Handled::Done)
    }

    async fn handle_all(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        events: &[&ReceivedEvent],
    ) -> std::result::Result<usize, HandlerError> {
        let rows: Vec<(&str, &[u8])> = events
            .iter()
            .map(|e| (e.event.aggregate_id.as_str(), e.event.payload.as_deref().unwrap_or_default()))
            .collect();
        upsert(tx, &rows).await?;
        Ok(events.len())
    }
}

async fn project(pool: &SqlitePool, log: &SqliteLog, events: usize) -> Result<()> {
    let name = unique("drain");
    let source = LogSource::builder(Arc::new(log.clone())).consumer(ConsumerName::parse(&name)?).batch(BATCH).build();
    let projection = SqliteProjection::builder(pool.clone(), ProjectionName::parse(&name)?, Latest).build();
    let projector = Projector::builder(source, Arc::new(projection)).build();
    let mut status = projector.status();
    let drained = async move {
        let all = |applied: u64| applied >= events as u64;
        _ = status.wait_for(|s| all(s.partitions.values().map(|p| p.totals.applied as u64).sum())).await;
    };
    projector.run(drained).await?;
    Ok(())
}
