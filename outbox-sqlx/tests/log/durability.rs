//! Nothing is handed out that a crash of the server can take back, and a reader survives the crash.

use outbox_core::{
    log::{Claim, EventLog as _, LogErrorKind, MemberId, StartAt},
    outbox::Outbox as _,
};
use outbox_sqlx::PostgresLog;
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::time::Duration;
use test_services::{OwnPostgres, PostgresVersion};

use crate::support::{Follower, LEASE, aggregates, bump, changed, consumer, join, moved, only};

async fn connect(server: &OwnPostgres) -> PgPool {
    PgPoolOptions::new().max_connections(6).connect(&server.url()).await.expect("connect")
}

async fn a_log_on(server: &OwnPostgres) -> (PgPool, PostgresLog) {
    let pool = connect(server).await;
    let log = PostgresLog::builder(pool.clone()).migrate().await.expect("migrate");
    aggregates(&pool).await;
    (pool, log)
}

/// The writer does not wait for the disk, and left alone the server would not write for ten seconds.
async fn what_was_read_survives_a_crash(version: PostgresVersion) {
    let mut server = OwnPostgres::create(version).await;
    let (pool, log) = a_log_on(&server).await;
    sqlx::query("ALTER SYSTEM SET wal_writer_delay = '10s'").execute(&pool).await.expect("set");
    sqlx::query("ALTER SYSTEM SET wal_writer_flush_after = '1GB'").execute(&pool).await.expect("set");
    sqlx::query("SELECT pg_reload_conf()").execute(&pool).await.expect("reload");

    for round in 1..=3 {
        let mut reader = Follower::from(log.clone(), StartAt::Beginning).await;
        let mut tx = pool.begin().await.expect("begin");
        sqlx::query("SET LOCAL synchronous_commit = off").execute(&mut *tx).await.expect("set");
        bump(&log, &mut tx, 1).await.expect("bump");
        tx.commit().await.expect("commit");
        reader.catch_up().await;
        let read = reader.seen.len();
        assert_eq!(read, round, "what is committed is read at once");

        server.kill();
        server.start().await;
        let kept: i64 = {
            let pool = connect(&server).await;
            let kept = sqlx::query_scalar("SELECT count(*) FROM outbox.outbox_event").fetch_one(&pool).await;
            kept.expect("count")
        };
        assert_eq!(kept, read as i64, "an event was handed out and then taken back");
        // Connections of before the crash are found to be dead one by one.
        while pool.acquire().await.is_err() {}
        while let Err(error) = log.read(&[reader.track()], 10).await {
            assert_eq!(error.kind(), LogErrorKind::Unavailable, "{error:?}");
        }
    }
}

/// A crash takes back the ids of running transactions, and their positions; a reader that has seen them goes on.
async fn a_reader_in_memory_survives_a_crash(version: PostgresVersion) {
    let mut server = OwnPostgres::create(version).await;
    let (pool, log) = a_log_on(&server).await;
    let name = consumer(&log, "relay").await;
    let member = join(&log, &name).await;
    let mut reader = Follower::from(log.clone(), StartAt::Beginning).await;
    for round in 1..=3 {
        // Ids and positions that nothing makes durable.
        let mut running = Vec::new();
        for aggregate in 2..5 {
            let mut tx = pool.begin().await.expect("begin");
            let _receipt = log.append(&mut tx, &[changed(aggregate, round)]).await.expect("append");
            running.push(tx);
        }
        let mut tx = pool.begin().await.expect("begin");
        bump(&log, &mut tx, 1).await.expect("bump");
        tx.commit().await.expect("commit");
        running.pop().expect("a transaction").rollback().await.expect("rollback");
        // An id that stands nowhere in the WAL.
        let mut tx = pool.begin().await.expect("begin");
        sqlx::query("SELECT pg_current_xact_id()").execute(&mut *tx).await.expect("an id");
        running.push(tx);
        reader.catch_up().await;
        server.kill();
        drop(running);
        server.start().await;

        let mut tx = loop {
            match pool.begin().await {
                Ok(tx) => break tx,
                Err(error) => drop(error),
            }
        };
        while sqlx::query("SELECT 1").execute(&mut *tx).await.is_err() {
            if let Ok(again) = pool.begin().await {
                tx = again;
            }
        }
        bump(&log, &mut tx, 1).await.expect("bump");
        tx.commit().await.expect("commit");
        loop {
            match log.read(&[reader.track()], 100).await {
                Ok(mut pages) => {
                    let page = pages.remove(0);
                    reader.cursor = page.next;
                    reader.seen.extend(page.events);
                    if page.caught_up {
                        break;
                    }
                }
                Err(error) => assert_eq!(error.kind(), LogErrorKind::Unavailable, "{error:?}"),
            }
        }
    }
    let numbers: Vec<_> = reader.seen.iter().map(|event| crate::support::version(event).1).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    let there = moved(&only(&member.tracks), &reader.cursor);
    log.checkpoint(&member.fence, &there).await.expect("the lease outlives the server");
}

/// A member's calls fail as passing while the server is away.
async fn a_server_that_is_away_is_unavailable(version: PostgresVersion) {
    let mut server = OwnPostgres::create(version).await;
    let (_, log) = a_log_on(&server).await;
    let name = consumer(&log, "relay").await;
    let member = join(&log, &name).await;
    server.stop().await;
    let impatient =
        PgPoolOptions::new().acquire_timeout(Duration::from_millis(500)).connect_lazy(&server.url()).expect("url");
    let log = PostgresLog::builder(impatient).build();
    for error in [
        log.read(&member.tracks, 1).await.expect_err("read"),
        log.checkpoint(&member.fence, &member.tracks).await.expect_err("checkpoint"),
        log.renew(&member.fence, LEASE).await.expect_err("renew"),
        log.join(&name, MemberId::random(), Claim::Share, LEASE).await.expect_err("join"),
    ] {
        assert_eq!(error.kind(), LogErrorKind::Unavailable, "{error:?}");
        assert!(error.kind().passes());
    }
}

/// A standby has the rows, but not the snapshots of the transactions that write them.
async fn a_standby_is_refused(version: PostgresVersion) {
    let mut server = OwnPostgres::create(version).await;
    let (pool, log) = a_log_on(&server).await;
    let name = consumer(&log, "relay").await;
    let member = join(&log, &name).await;
    let standby = "COPY (SELECT 1) TO PROGRAM 'cat > standby.signal'";
    sqlx::query(standby).execute(&pool).await.expect("a superuser may run programs in the data folder");
    pool.close().await;
    server.stop().await;
    server.start().await;
    let pool = connect(&server).await;
    let log = PostgresLog::builder(pool).open().await.expect("the tables are there");
    for error in [
        log.read(&member.tracks, 1).await.expect_err("read"),
        log.checkpoint(&member.fence, &member.tracks).await.expect_err("checkpoint"),
        log.join(&name, MemberId::random(), Claim::Share, LEASE).await.expect_err("join"),
    ] {
        assert_eq!(error.kind(), LogErrorKind::ReadOnly, "{error:?}");
    }
}

macro_rules! on_own_server {
    ($($name:ident),*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_15() {
                super::$name(PostgresVersion::V15).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_18() {
                super::$name(PostgresVersion::V18).await;
            }
        }
    )*};
}
pub(crate) use on_own_server;

on_own_server!(
    what_was_read_survives_a_crash,
    a_reader_in_memory_survives_a_crash,
    a_server_that_is_away_is_unavailable,
    a_standby_is_refused
);
