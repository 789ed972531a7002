//! What is particular to SQLite.

use std::time::Duration;

use outbox_core::{
    event::{Field, LaneCount, LaneSet, NewEvent, RecordedEvent},
    log::{Cursor, EventLog as _, LogErrorKind, MemberId},
    outbox::{AppendErrorKind, Outbox as _},
};
use outbox_sqlx::SqliteLog;
use sqlx::{SqlitePool, sqlite::SqlitePoolOptions};
use tempfile::TempDir;

use crate::support::{LEASE, changed, consumer, join, version};

/// A fresh file with a log.
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

    /// Connections as another process has them.
    pub(crate) async fn connect(&self, connections: u32) -> SqlitePool {
        let options = SqliteLog::connect_options(self.folder.path().join("log.db"));
        SqlitePoolOptions::new().max_connections(connections).connect_with(options).await.expect("connect")
    }

    async fn write(&self, events: &[NewEvent]) {
        let mut tx = self.write.begin_with("BEGIN IMMEDIATE").await.expect("begin");
        let _receipt = self.log.append(&mut tx, events).await.expect("append");
        tx.commit().await.expect("commit");
    }

    async fn read_on(&self, cursor: &mut Cursor) -> Vec<RecordedEvent> {
        let lanes = LaneSet::all(LaneCount::default());
        let mut events = Vec::new();
        loop {
            let page = self.log.read(cursor, lanes, 7).await.expect("read");
            events.extend(page.events);
            *cursor = page.next;
            if page.caught_up {
                return events;
            }
        }
    }
}

#[tokio::test]
async fn what_is_refused_leaves_the_transaction_usable() {
    let bed = SqliteBed::create().await;
    let mut tx = bed.write.begin_with("BEGIN IMMEDIATE").await.expect("begin");
    let long = NewEvent::json("Agg", 1, "AggChanged", &"x".repeat(1024 * 1024)).expect("event");
    let refused = bed.log.append(&mut tx, &[changed(1, 1), long]).await.expect_err("too long");
    assert_eq!(refused.kind(), AppendErrorKind::Invalid);
    assert_eq!(refused.invalid().expect("the event").field(), Field::Payload);
    sqlx::query("CREATE TABLE elsewhere (n)").execute(&mut *tx).await.expect("usable");
    let _receipt = bed.log.append(&mut tx, &[changed(1, 1)]).await.expect("append");
    tx.commit().await.expect("commit");
    let name = consumer(&bed.log, "relay").await;
    let mut cursor = join(&bed.log, &name).await.cursor;
    assert_eq!(bed.read_on(&mut cursor).await.len(), 1);
}

#[tokio::test]
async fn many_events_keep_the_order_of_the_slice() {
    let bed = SqliteBed::create().await;
    let events: Vec<_> = (1..=10_000).map(|n| changed(n, n)).collect();
    bed.write(&events).await;
    let name = consumer(&bed.log, "relay").await;
    let assignment = join(&bed.log, &name).await;
    let page = bed.log.read(&assignment.cursor, assignment.lanes, 20_000).await.expect("read");
    assert!(page.caught_up);
    let numbers: Vec<i64> = page.events.iter().map(|event| version(event).1).collect();
    assert_eq!(numbers, (1..=10_000).collect::<Vec<_>>());
}

/// A plain rowid would begin again, and a reader would take new events for old ones.
#[tokio::test]
async fn positions_go_on_after_retention_emptied_the_table() {
    let bed = SqliteBed::create().await;
    bed.write(&[changed(1, 1), changed(1, 2)]).await;
    let name = consumer(&bed.log, "relay").await;
    let mut cursor = join(&bed.log, &name).await.cursor;
    assert_eq!(bed.read_on(&mut cursor).await.len(), 2);
    sqlx::query("DELETE FROM outbox_event").execute(&bed.write).await.expect("retention");
    bed.write(&[changed(1, 3)]).await;
    let came = bed.read_on(&mut cursor).await;
    assert_eq!(came.iter().map(|event| version(event).1).collect::<Vec<_>>(), [3]);
}

/// Writers and a reader with connections of their own, as processes have them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_on_one_file() {
    let bed = SqliteBed::create().await;
    let name = consumer(&bed.log, "relay").await;
    let mut cursor = join(&bed.log, &name).await.cursor;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 1..=4 {
        let pool = bed.connect(1).await;
        writers.spawn(async move {
            let log = SqliteLog::builder(pool.clone()).migrate().await.expect("migrate");
            for n in 1..=25 {
                let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.expect("begin");
                let _receipt = log.append(&mut tx, &[changed(writer, n)]).await.expect("append");
                if n % 5 == 0 { tx.rollback().await } else { tx.commit().await }.expect("end");
            }
        });
    }
    let mut seen = Vec::new();
    while !writers.is_empty() {
        seen.extend(bed.read_on(&mut cursor).await);
        writers.try_join_next().transpose().expect("writer");
    }
    seen.extend(bed.read_on(&mut cursor).await);
    assert_eq!(seen.len(), 80);
    crate::support::assert_first_deliveries_in_order(&seen);
}

#[tokio::test]
async fn tables_are_as_expected_or_a_typed_error() {
    let folder = tempfile::tempdir().expect("folder");
    let options = SqliteLog::connect_options(folder.path().join("log.db"));
    let pool = SqlitePoolOptions::new().max_connections(2).connect_with(options).await.expect("connect");
    let builder = || SqliteLog::builder(pool.clone());
    let lanes = |count| LaneCount::new(count).expect("count");
    assert_eq!(builder().open().await.expect_err("open").kind(), LogErrorKind::NotMigrated);
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.expect("begin");
    let failed = builder().build().append(&mut tx, &[changed(1, 1)]).await.expect_err("append");
    assert_eq!(failed.kind(), AppendErrorKind::NotMigrated);
    tx.rollback().await.expect("rollback");

    sqlx::raw_sql(sqlx::AssertSqlSafe(SqliteLog::migration_sql(lanes(8)))).execute(&pool).await.expect("script");
    let log = builder().migrate().await.expect("the script's notes are recognised");
    assert_eq!(log.identity().await.expect("identity").lanes, lanes(8));
    assert_eq!(builder().lanes(lanes(9)).open().await.expect_err("lanes").kind(), LogErrorKind::Incompatible);
    sqlx::query("UPDATE outbox_log SET schema_version = 99").execute(&pool).await.expect("newer");
    assert_eq!(builder().open().await.expect_err("newer").kind(), LogErrorKind::Incompatible);
}

#[tokio::test]
async fn a_restored_file_is_noticed() {
    let bed = SqliteBed::create().await;
    bed.write(&[changed(1, 1), changed(1, 2)]).await;
    let name = consumer(&bed.log, "relay").await;
    let mut cursor = join(&bed.log, &name).await.cursor;
    bed.read_on(&mut cursor).await;
    sqlx::raw_sql(
        "DELETE FROM outbox_event WHERE position = 2; UPDATE sqlite_sequence SET seq = 1 WHERE name = 'outbox_event'",
    )
    .execute(&bed.write)
    .await
    .expect("restore");
    let refused = bed.log.read(&cursor, LaneSet::all(LaneCount::default()), 1).await.expect_err("restored");
    assert_eq!(refused.kind(), LogErrorKind::BadCursor);
}

/// A file that somebody keeps locked is a passing failure.
#[tokio::test]
async fn a_busy_file_is_unavailable() {
    let bed = SqliteBed::create().await;
    let name = consumer(&bed.log, "relay").await;
    let options = SqliteLog::connect_options(bed.folder.path().join("log.db")).busy_timeout(Duration::from_millis(20));
    let impatient = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("connect");
    let log = SqliteLog::builder(impatient).open().await.expect("open");
    let writing = bed.write.begin_with("BEGIN IMMEDIATE").await.expect("begin");
    let failed = log.join(&name, MemberId::random(), LEASE).await.expect_err("busy");
    assert_eq!(failed.kind(), LogErrorKind::Unavailable);
    writing.rollback().await.expect("rollback");
    join(&log, &name).await;
}
