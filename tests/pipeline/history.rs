//! A read model in PostgreSQL in which a change that is missing, comes twice or out of order shows.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    log::ConsumerName,
    log_source::{LogSource, LogSourceBuilder},
    source::EventSource,
};
use outbox_projector::{
    Projector, ProjectorError, ProjectorStatus,
    sql::{Handled, Handler, HandlerError, PostgresProjection, ProjectionName, SchemaName},
};
use sqlx::{PgPool, Postgres, Transaction};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::support::{PATIENCE, Shop, change};

/// Appends each version of an aggregate to its text.
struct History;

#[async_trait]
impl Handler<Postgres> for History {
    async fn handle(&self, tx: &mut Transaction<'_, Postgres>, event: &ReceivedEvent) -> Result<Handled, HandlerError> {
        let facts = &event.event;
        let payload = facts.payload.as_deref().unwrap_or_default();
        let body: serde_json::Value =
            serde_json::from_slice(payload).map_err(|e| HandlerError::reject("no JSON").with_source(e))?;
        let version = body["v"].as_i64().ok_or_else(|| HandlerError::reject("no version"))?;
        sqlx::query(
            "INSERT INTO history VALUES ($1, $2)
            ON CONFLICT (id) DO UPDATE SET versions = history.versions || excluded.versions",
        )
        .bind(facts.aggregate_id.as_str())
        .bind(format!("{version},"))
        .execute(&mut **tx)
        .await?;
        Ok(Handled::Done)
    }
}

pub(crate) async fn create_tables(pool: &PgPool) {
    PostgresProjection::migrate(pool, &SchemaName::default()).await.expect("projector");
    sqlx::query("CREATE TABLE history (id text PRIMARY KEY, versions text NOT NULL)")
        .execute(pool)
        .await
        .expect("table");
}

/// Straight from the shop's log.
pub(crate) fn from_log(shop: &Shop) -> LogSourceBuilder {
    LogSource::builder(Arc::new(shop.log.clone()))
        .consumer(ConsumerName::parse("history").expect("name"))
        .lease(Duration::from_secs(2))
        .poll(Duration::from_millis(100))
}

/// A projector at work.
pub(crate) struct Projecting {
    pub(crate) status: watch::Receiver<ProjectorStatus>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ProjectorError>>,
}

impl Projecting {
    pub(crate) fn start(pool: &PgPool, source: impl EventSource + 'static) -> Self {
        let name = ProjectionName::parse("history").expect("name");
        let projection = PostgresProjection::builder(pool.clone(), name, History).build();
        let lag_every = Duration::from_millis(50);
        let projector = Projector::builder(source, Arc::new(projection)).lag_every(lag_every).build();
        let status = projector.status();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(projector.run(async { _ = stopped.await }));
        Self { status, stop, task }
    }

    pub(crate) async fn until(&mut self, what: &str, reached: impl FnMut(&ProjectorStatus) -> bool) -> ProjectorStatus {
        let waited = tokio::time::timeout(PATIENCE, self.status.wait_for(reached)).await;
        if let Ok(Ok(status)) = waited.as_ref() {
            return ProjectorStatus::clone(status);
        }
        drop(waited);
        panic!("in vain: {what}; status {:?}", *self.status.borrow());
    }

    pub(crate) async fn until_applied(&mut self, events: usize) -> ProjectorStatus {
        self.until(&format!("{events} events applied"), |status| status.totals().applied >= events).await
    }

    pub(crate) async fn until_nothing_is_left(&mut self) {
        let is_read = |status: &ProjectorStatus| !status.partitions.is_empty();
        self.until("nothing is left", |status| is_read(status) && status.lag() == Some(0)).await;
    }

    pub(crate) fn conflicts(&self) -> usize {
        self.status.borrow().partitions.values().map(|partition| partition.conflicts).sum()
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        tokio::time::timeout(PATIENCE, self.task).await.expect("stopped in time").expect("no panic").expect("no error");
    }

    /// As a crash: nothing more is done, and nothing tidied up.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|e| e.is_cancelled()), "the projector had ended by itself");
    }
}

/// Changes aggregates for as long as `meanwhile` takes.
pub(crate) async fn while_writing<T>(shop: &Shop, meanwhile: impl Future<Output = T>) -> T {
    const WRITERS: i64 = 3;
    let over = AtomicBool::new(false);
    let write = async |writer: i64| {
        let mut n = writer;
        while !over.load(Ordering::Relaxed) {
            change(shop.database.pool(), &shop.log, n % 100 + 1).await.expect("change");
            n += WRITERS;
        }
    };
    let writers = futures_util::future::join_all((0..WRITERS).map(write));
    let meanwhile = async {
        let done = meanwhile.await;
        over.store(true, Ordering::Relaxed);
        done
    };
    tokio::join!(writers, meanwhile).1
}

/// Fails unless the read model has each change of each aggregate once and in order; returns how many there are.
pub(crate) async fn assert_complete(pool: &PgPool) -> usize {
    let changes: Vec<(i64, i64)> =
        sqlx::query_as("SELECT id, v FROM agg WHERE v > 0 ORDER BY id").fetch_all(pool).await.expect("aggregates");
    let written = changes.iter().map(|(_, v)| *v as usize).sum();
    let all = |v: i64| (1..=v).fold(String::new(), |text, v| text + &v.to_string() + ",");
    let expected: Vec<(i64, String)> = changes.into_iter().map(|(id, v)| (id, all(v))).collect();
    let found: Vec<(i64, String)> = sqlx::query_as("SELECT id::bigint, versions FROM history ORDER BY 1")
        .fetch_all(pool)
        .await
        .expect("read model");
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len(), "aggregates");
    written
}
