//! One SQLite file: the log, and a read model straight from it. No broker.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use outbox_core::{
    event::{NewEvent, ReceivedEvent},
    log::ConsumerName,
    log_source::LogSource,
    outbox::Outbox,
    projection::Projection,
};
use outbox_projector::{
    Projector, ProjectorError, ProjectorStatus,
    sql::{Handled, Handler, HandlerError, ProjectionName, SqliteProjection},
};
use outbox_sqlx::SqliteLog;
use sqlx::{Sqlite, SqlitePool, Transaction, sqlite::SqlitePoolOptions};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::support::PATIENCE;

/// Appends each change to a text: applied twice, or in another order, it would show.
struct History;

#[async_trait]
impl Handler<Sqlite> for History {
    async fn handle(&self, tx: &mut Transaction<'_, Sqlite>, event: &ReceivedEvent) -> Result<Handled, HandlerError> {
        let facts = &event.event;
        let payload = facts.payload.as_deref().unwrap_or_default();
        let v: i64 = serde_json::from_slice(payload).map_err(|e| HandlerError::reject("no number").with_source(e))?;
        sqlx::query(
            "INSERT INTO history VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET versions = versions || excluded.versions",
        )
        .bind(facts.aggregate_id.as_str())
        .bind(format!("{v},"))
        .execute(&mut **tx)
        .await?;
        Ok(Handled::Done)
    }
}

struct File {
    write: SqlitePool,
    log: SqliteLog,
}

impl File {
    async fn open(path: &Path) -> Self {
        let options = SqliteLog::connect_options(path);
        let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.expect("file");
        let read = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.expect("file");
        let log = SqliteLog::builder(write.clone()).read_pool(read).build();
        log.migrate().await.expect("log");
        SqliteProjection::migrate(&write).await.expect("projector");
        for table in [
            "CREATE TABLE IF NOT EXISTS agg (id INTEGER PRIMARY KEY, v INTEGER NOT NULL)",
            "CREATE TABLE IF NOT EXISTS history (id TEXT PRIMARY KEY, versions TEXT NOT NULL)",
        ] {
            sqlx::query(table).execute(&write).await.expect("table");
        }
        Self { write, log }
    }

    async fn change(&self, id: i64, commit: bool) {
        let mut tx = self.write.begin_with("BEGIN IMMEDIATE").await.expect("begin");
        let v: i64 =
            sqlx::query_scalar("INSERT INTO agg VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET v = v + 1 RETURNING v")
                .bind(id)
                .fetch_one(&mut *tx)
                .await
                .expect("row");
        let event = NewEvent::json("Agg", id, "AggChanged", &v).expect("event");
        let receipt = self.log.append(&mut tx, &[event]).await.expect("append");
        if commit {
            tx.commit().await.expect("commit");
            receipt.committed();
        } else {
            tx.rollback().await.expect("rollback");
        }
    }

    fn project(&self) -> Projecting {
        let consumer = ConsumerName::parse("history").expect("name");
        let source = LogSource::builder(Arc::new(self.log.clone()))
            .consumer(consumer)
            .lease(Duration::from_millis(500))
            .poll(Duration::from_millis(50))
            .batch(20)
            .build();
        let name = ProjectionName::parse("history").expect("name");
        let projection: Arc<dyn Projection> =
            Arc::new(SqliteProjection::builder(self.write.clone(), name, History).build());
        let projector = Projector::builder(source, projection).build();
        let status = projector.status();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(projector.run(async { _ = stopped.await }));
        Projecting { stop, task, status }
    }

    async fn histories(&self) -> Vec<(i64, String)> {
        sqlx::query_as("SELECT CAST(id AS INTEGER), versions FROM history ORDER BY 1")
            .fetch_all(&self.write)
            .await
            .expect("read model")
    }
}

struct Projecting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ProjectorError>>,
    status: watch::Receiver<ProjectorStatus>,
}

impl Projecting {
    async fn until_applied(&mut self, events: u64) {
        let applied =
            |s: &ProjectorStatus| s.partitions.values().map(|p| p.totals.applied as u64).sum::<u64>() >= events;
        let waited = tokio::time::timeout(PATIENCE, self.status.wait_for(applied)).await.map(|r| r.map(drop));
        assert!(matches!(waited, Ok(Ok(()))), "{events} events: {:?}", *self.status.borrow());
    }

    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|e| e.is_cancelled()), "the projector had ended by itself");
    }
}

/// Projectors are killed again and again, and a second process has the file open, while changes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_model_follows_through_crashes() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("shop.sqlite");
    let (writer, reader) = (File::open(&path).await, File::open(&path).await);
    let mut changes = 0;
    for round in 1..=6_u64 {
        for n in 0..30 {
            writer.change(n % 7, n % 3 != 2).await;
            changes += u64::from(n % 3 != 2);
        }
        let mut projecting = reader.project();
        projecting.until_applied(round % 3 * 5).await;
        projecting.kill().await;
    }
    let last = writer.project();
    let expected: Vec<(i64, i64)> =
        sqlx::query_as("SELECT id, v FROM agg ORDER BY id").fetch_all(&writer.write).await.expect("aggregates");
    assert_eq!(expected.iter().map(|(_, v)| *v as u64).sum::<u64>(), changes);
    let expected: Vec<(i64, String)> = expected
        .into_iter()
        .map(|(id, v)| (id, (1..=v).fold(String::new(), |text, v| text + &v.to_string() + ",")))
        .collect();
    let mut status = last.status.clone();
    let follow = async {
        while writer.histories().await != expected {
            status.changed().await.expect("the projector runs");
        }
    };
    tokio::time::timeout(PATIENCE, follow).await.expect("the read model did not catch up");
    last.stop.send(()).expect("the projector runs");
    last.task.await.expect("no panic").expect("no error");
}
