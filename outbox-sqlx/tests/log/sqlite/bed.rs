//! A fresh file with a log.

use std::path::PathBuf;

use outbox_core::{
    event::{NewEvent, RecordedEvent},
    log::{Assignment, Claim, ConsumerName, EventLog as _, Fence, MemberId, Track},
    outbox::Outbox as _,
};
use outbox_sqlx::SqliteLog;
use sqlx::{AssertSqlSafe, SqlitePool, sqlite::SqlitePoolOptions};
use tempfile::TempDir;

use crate::support::{LEASE, changed, consumer};

pub(crate) struct SqliteBed {
    folder: TempDir,
    pub(crate) write: SqlitePool,
    pub(crate) log: SqliteLog,
}

impl SqliteBed {
    pub(crate) async fn create() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let options = SqliteLog::connect_options(folder.path().join("log.db"));
        let pool = SqlitePoolOptions::new().max_connections(8);
        let write = pool.clone().connect_with(options.clone()).await.expect("connect");
        let read = pool.connect_with(options).await.expect("connect");
        let log = SqliteLog::builder(write.clone()).read_pool(read).migrate().await.expect("migrate");
        Self { folder, write, log }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("log.db")
    }

    /// Connections as another process has them.
    pub(crate) async fn connect(&self, connections: u32) -> SqlitePool {
        connect(&self.path(), connections).await
    }

    /// A consumer at the beginning, and its only member with all lanes.
    pub(super) async fn member(&self, name: &str) -> Member<'_> {
        let name = consumer(&self.log, name).await;
        let assignment = join(&self.log, &name).await;
        Member { log: &self.log, name, assignment }
    }

    /// One transaction.
    pub(super) async fn write(&self, events: &[NewEvent]) {
        write(&self.log, &self.write, events).await;
    }

    /// One transaction with versions 1 to `count` of an aggregate.
    pub(super) async fn write_versions(&self, aggregate: i64, versions: std::ops::RangeInclusive<i64>) {
        let events: Vec<NewEvent> = versions.map(|v| changed(aggregate, v)).collect();
        self.write(&events).await;
    }

    pub(super) async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.write).await.expect(sql);
    }

    pub(super) async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.write).await.expect(sql)
    }
}

pub(super) async fn connect(path: &std::path::Path, connections: u32) -> SqlitePool {
    let options = SqliteLog::connect_options(path);
    SqlitePoolOptions::new().max_connections(connections).connect_with(options).await.expect("connect")
}

pub(super) async fn write(log: &SqliteLog, pool: &SqlitePool, events: &[NewEvent]) {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.expect("begin");
    let _receipt = log.append(&mut tx, events).await.expect("append");
    tx.commit().await.expect("commit");
}

pub(super) async fn join(log: &SqliteLog, consumer: &ConsumerName) -> Assignment {
    log.join(consumer, MemberId::random(), Claim::Share, LEASE).await.expect("join")
}

/// A member of a consumer.
pub(super) struct Member<'b> {
    log: &'b SqliteLog,
    pub(super) name: ConsumerName,
    pub(super) assignment: Assignment,
}

impl Member<'_> {
    pub(super) fn fence(&self) -> &Fence {
        &self.assignment.fence
    }

    /// Reads to the end, makes a checkpoint there, and returns what came.
    pub(super) async fn consume(&mut self) -> Vec<RecordedEvent> {
        let events = read_on(self.log, &mut self.assignment.tracks).await;
        self.checkpoint().await;
        events
    }

    /// Everything that was read is done.
    pub(super) async fn checkpoint(&self) {
        self.log.checkpoint(&self.assignment.fence, &self.assignment.tracks).await.expect("checkpoint");
    }

    pub(super) async fn position(&self) -> u64 {
        self.log.progress(&self.name).await.expect("progress").position
    }
}

/// Reads all tracks to the end of the log, in pages.
pub(super) async fn read_on(log: &SqliteLog, tracks: &mut [Track]) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    loop {
        let pages = log.read(tracks, 7).await.expect("read");
        let mut caught_up = true;
        for (track, page) in tracks.iter_mut().zip(pages) {
            events.extend(page.events);
            track.cursor = page.next;
            caught_up &= page.caught_up;
        }
        if caught_up {
            return events;
        }
    }
}
