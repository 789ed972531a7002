//! The file, its tables and its connections.

use std::time::Duration;

use outbox_core::{
    event::{Field, LaneCount, NewEvent},
    log::{Claim, Cursor, EventLog as _, LogErrorKind, MemberId, Track},
    outbox::{AppendErrorKind, Outbox as _},
};
use outbox_sqlx::SqliteLog;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::bed::{SqliteBed, join};
use crate::support::{LEASE, changed, consumer, version};

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
    assert_eq!(bed.member("relay").await.consume().await.len(), 1);
}

#[tokio::test]
async fn many_events_keep_the_order_of_the_slice() {
    let bed = SqliteBed::create().await;
    bed.write_versions(1, 1..=10_000).await;
    let member = bed.member("relay").await;
    let page = bed.log.read(&member.assignment.tracks, 20_000).await.expect("read").remove(0);
    assert!(page.caught_up);
    let numbers: Vec<i64> = page.events.iter().map(|event| version(event).1).collect();
    assert_eq!(numbers, (1..=10_000).collect::<Vec<_>>());
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
    let name = consumer(&log, "relay").await;
    assert_eq!(join(&log, &name).await.lanes().len(), 8);
    assert_eq!(builder().lanes(lanes(9)).open().await.expect_err("lanes").kind(), LogErrorKind::Incompatible);
    sqlx::query("UPDATE outbox_log SET schema_version = 99").execute(&pool).await.expect("newer");
    assert_eq!(builder().open().await.expect_err("newer").kind(), LogErrorKind::Incompatible);
}

/// With such settings a power cut takes back what was read, or everybody waits for everybody.
#[tokio::test]
async fn connections_with_other_settings_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let options = || SqliteLog::connect_options(folder.path().join("log.db"));
    let open = async |options: SqliteConnectOptions| {
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("connect");
        let opened = SqliteLog::builder(pool.clone()).migrate().await.map(drop);
        let again = SqliteLog::builder(pool.clone()).open().await.map(drop);
        pool.close().await;
        [opened, again].map(|opened| opened.map_err(|refused| (refused.kind(), refused.to_string())))
    };
    for (settings, said) in [
        (options().journal_mode(SqliteJournalMode::Delete), "journal_mode=WAL"),
        (options().synchronous(SqliteSynchronous::Normal), "synchronous=FULL"),
        (options().synchronous(SqliteSynchronous::Off), "synchronous=FULL"),
    ] {
        for refused in open(settings).await {
            let (kind, message) = refused.expect_err(said);
            assert_eq!(kind, LogErrorKind::Incompatible);
            assert!(message.contains(said) && message.contains("connect_options"), "{message}");
        }
    }
    for good in [options(), options().synchronous(SqliteSynchronous::Extra)] {
        for opened in open(good).await {
            opened.expect("these are good");
        }
    }
}

#[tokio::test]
async fn a_file_that_takes_no_writes_is_read_only() {
    let bed = SqliteBed::create().await;
    let name = consumer(&bed.log, "relay").await;
    let options = SqliteLog::connect_options(bed.path()).create_if_missing(false).read_only(true);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("connect");
    let log = SqliteLog::builder(pool).open().await.expect("open");
    let failed = log.join(&name, MemberId::random(), Claim::Share, LEASE).await.expect_err("read only");
    assert_eq!(failed.kind(), LogErrorKind::ReadOnly, "{failed:?}");
}

/// A file that somebody keeps locked is a passing failure, and reading goes on.
#[tokio::test]
async fn a_busy_file_is_unavailable_for_writing() {
    let bed = SqliteBed::create().await;
    let name = consumer(&bed.log, "relay").await;
    bed.write(&[changed(1, 1)]).await;
    let options = SqliteLog::connect_options(bed.path()).busy_timeout(Duration::from_millis(20));
    let impatient = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("connect");
    let log = SqliteLog::builder(impatient).open().await.expect("open");
    let member = join(&log, &name).await;
    let writing = bed.write.begin_with("BEGIN IMMEDIATE").await.expect("begin");
    for failed in [
        log.join(&name, MemberId::random(), Claim::Share, LEASE).await.map(drop),
        log.renew(&member.fence, LEASE).await.map(drop),
        log.checkpoint(&member.fence, &member.tracks).await,
    ] {
        assert_eq!(failed.expect_err("busy").kind(), LogErrorKind::Unavailable);
    }
    assert_eq!(log.read(&member.tracks, 10).await.expect("read")[0].events.len(), 1);
    log.progress(&name).await.expect("progress");
    log.blocked_keys(&member.fence).await.expect("blocked keys");
    writing.rollback().await.expect("rollback");
    log.checkpoint(&member.fence, &member.tracks).await.expect("checkpoint");
}

/// As a log of PostgreSQL or another file gives them.
#[tokio::test]
async fn cursors_of_other_logs_are_refused() {
    let (bed, other) = (SqliteBed::create().await, SqliteBed::create().await);
    let (member, stranger) = (bed.member("relay").await, other.member("relay").await);
    let pg = [Track { cursor: Cursor::from_text("pg1 7 1:1: 0 1"), ..member.assignment.tracks[0].clone() }];
    for foreign in [&stranger.assignment.tracks[..], &pg] {
        let refused = bed.log.read(foreign, 1).await.expect_err("foreign");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);
        let refused = bed.log.checkpoint(member.fence(), foreign).await.expect_err("foreign");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);
        let refused = bed.log.release(member.fence(), foreign).await.expect_err("foreign");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);
    }
    assert_eq!(member.position().await, 0);
}
