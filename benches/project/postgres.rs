//! Events in memory → a read model in PostgreSQL, in steps of several sizes, beside a bare multi-row upsert.

use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    projection::{Projection as _, Step},
    source::{Partition, SourcePosition},
    testing::Sequencer,
};
use outbox_projector::sql::{Handled, Handler, HandlerError, PostgresProjection, ProjectionName, SchemaName};
use sqlx::{PgPool, Postgres, Transaction};
use test_services::{PostgresVersion, TestDatabase, unique};

use crate::{
    Size, aggregate,
    figures::table::{Stopwatch, Table},
    payload,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub(crate) const RAW: &str = "raw multi-row upsert";
const RAW_POSITION: &str = "raw multi-row upsert and position";
const VERSIONED: &str = "projection, versioned handler";
const WATERMARKS: &str = "projection, with watermarks";

/// Steps of so many events, and so many events at most: one event a transaction is slow.
const STEPS: [(usize, usize); 4] = [(1, 2_000), (100, 50_000), (1_000, 200_000), (5_000, 400_000)];

/// A table for each size of step.
pub(crate) async fn run(size: &Size, version: PostgresVersion) -> Result<Vec<(usize, Table)>> {
    let database = TestDatabase::create(version).await;
    let pool = database.pool();
    PostgresProjection::migrate(pool, &SchemaName::default()).await?;
    sqlx::query("CREATE TABLE raw_position (position bigint NOT NULL)").execute(pool).await?;
    sqlx::query("INSERT INTO raw_position VALUES (0)").execute(pool).await?;
    let events = events(size.events.max(STEPS[0].1))?;
    let mut tables: Vec<(usize, Table)> = STEPS.map(|(step, _)| (step, Table::default())).into();
    for round in 1..=size.rounds {
        for ((step, most), (_, table)) in STEPS.into_iter().zip(&mut tables) {
            eprintln!("round {round} of {}, events in memory → PostgreSQL, steps of {step}", size.rounds);
            let events = &events[..events.len().min(most)];
            for contestant in [RAW, RAW_POSITION, VERSIONED, WATERMARKS] {
                read_model(pool).await?;
                let watch = Stopwatch::start();
                match contestant {
                    RAW => raw(pool, events, step, false).await?,
                    RAW_POSITION => raw(pool, events, step, true).await?,
                    _ => project(pool, events, step, contestant == VERSIONED).await?,
                }
                table.record(contestant, events.len(), watch.took());
            }
        }
    }
    database.drop_database().await;
    Ok(tables)
}

/// Events of an imaginary log.
pub(crate) fn events(count: usize) -> Result<Vec<ReceivedEvent>> {
    let log = Sequencer::default();
    let event = |n| Ok(outbox_core::event::NewEvent::json("Agg", aggregate(n), "AggChanged", &payload(n))?);
    (0..count).map(|n| event(n).map(|event| log.receive(event))).collect()
}

async fn read_model(pool: &PgPool) -> Result<()> {
    sqlx::query("DROP TABLE IF EXISTS latest").execute(pool).await?;
    sqlx::query("CREATE TABLE latest (id text PRIMARY KEY, version bigint NOT NULL, body bytea NOT NULL)")
        .execute(pool)
        .await?;
    Ok(())
}

/// The last row of each id: PostgreSQL refuses an upsert that meets a row twice.
struct Rows<'e> {
    ids: Vec<&'e str>,
    versions: Vec<i64>,
    bodies: Vec<&'e [u8]>,
}

impl<'e> Rows<'e> {
    fn last_of_each(events: impl DoubleEndedIterator<Item = &'e ReceivedEvent>) -> Self {
        let mut known = std::collections::HashSet::new();
        let mut rows = Self { ids: Vec::new(), versions: Vec::new(), bodies: Vec::new() };
        for received in events.rev() {
            let id = received.event.aggregate_id.as_str();
            if known.insert(id) {
                rows.ids.push(id);
                rows.versions.push(received.origin.map_or(0, |origin| origin.sequence.get() as i64));
                rows.bodies.push(received.event.payload.as_deref().unwrap_or_default());
            }
        }
        rows
    }

    async fn upsert(&self, tx: &mut Transaction<'_, Postgres>) -> std::result::Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO latest (id, version, body) SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[]) \
             ON CONFLICT (id) DO UPDATE SET version = excluded.version, body = excluded.body \
             WHERE latest.version < excluded.version",
        )
        .bind(&self.ids)
        .bind(&self.versions)
        .bind(&self.bodies)
        .execute(&mut **tx)
        .await
        .map(drop)
    }
}

async fn raw(pool: &PgPool, events: &[ReceivedEvent], step: usize, position: bool) -> Result<()> {
    for chunk in events.chunks(step) {
        let mut tx = pool.begin().await?;
        Rows::last_of_each(chunk.iter()).upsert(&mut tx).await?;
        if position {
            sqlx::query("UPDATE raw_position SET position = position + 1").execute(&mut *tx).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

struct Latest;

#[async_trait]
impl Handler<Postgres> for Latest {
    async fn handle(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        event: &ReceivedEvent,
    ) -> std::result::Result<Handled, HandlerError> {
        self.handle_all(tx, &[event]).await?;
        Ok(Handled::Done)
    }

    async fn handle_all(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        events: &[&ReceivedEvent],
    ) -> std::result::Result<usize, HandlerError> {
        Rows::last_of_each(events.iter().copied()).upsert(tx).await?;
        Ok(events.len())
    }
}

async fn project(pool: &PgPool, events: &[ReceivedEvent], step: usize, versioned: bool) -> Result<()> {
    let builder = PostgresProjection::builder(pool.clone(), ProjectionName::parse(unique("project"))?, Latest);
    let projection = if versioned { builder.versioned() } else { builder }.build();
    let partition = Partition::new("memory/0");
    let mut from: Option<SourcePosition> = None;
    for (n, chunk) in events.chunks(step).enumerate() {
        let to = SourcePosition::from_text(n.to_string());
        let applied = projection.apply(Step::new(&partition, from.as_ref(), &to, chunk)).await?;
        assert_eq!(applied.applied, chunk.len(), "each event is new");
        from = Some(to);
    }
    Ok(())
}
