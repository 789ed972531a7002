//! Behind PgBouncer, which lends a server's connection for one transaction at a time.

use std::{collections::BTreeSet, error::Error as _, time::Duration};

use outbox_core::{
    event::RecordedEvent,
    log::{ConsumerName, EventLog as _, LogErrorKind},
    outbox::{AppendErrorKind, Outbox as _},
};
use outbox_sqlx::PostgresLog;
use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use test_services::OwnPgBouncer;
use tokio::task::JoinSet;

use crate::support::{Bed, LEASE, assert_first_deliveries_in_order, bump, changed, join, on_postgres, only, read};

const CLIENTS: u32 = 24;
const WRITERS: i64 = 20;
const EVENTS: i64 = 15;

/// A pool of clients through PgBouncer, all of them connected.
async fn clients(bed: &Bed, bouncer: &OwnPgBouncer) -> PgPool {
    let options = bouncer.options(&bed.pool.connect_options()).application_name("pooled");
    let pool = PgPoolOptions::new().max_connections(CLIENTS).acquire_timeout(Duration::from_mins(1));
    let pool = pool.connect_with(options).await.expect("connect");
    let mut all = Vec::new();
    for _ in 0..CLIENTS {
        all.push(pool.acquire().await.expect("a client"));
    }
    drop(all);
    pool
}

/// Reads, renews and checkpoints until all events were seen.
async fn consume(log: PostgresLog, consumer: ConsumerName) -> Vec<RecordedEvent> {
    let expected = usize::try_from(WRITERS * EVENTS).expect("a small number");
    let assignment = join(&log, &consumer).await;
    let (mut track, mut events) = (only(&assignment.tracks), Vec::new());
    while events.len() < expected {
        let page = read(&log, &track, 50).await;
        log.renew(&assignment.fence, LEASE).await.expect("renew");
        track.cursor = page.next;
        log.checkpoint(&assignment.fence, std::slice::from_ref(&track)).await.expect("checkpoint");
        events.extend(page.events);
    }
    log.leave(&assignment.fence).await.expect("leave");
    events
}

on_postgres! {
    /// 24 clients on 2 connections: 20 writers, and 2 consumers that read, renew and checkpoint.
    async fn nothing_is_lost_on_two_connections(bed: &Bed) {
        let bouncer = OwnPgBouncer::start(&bed.pool.connect_options(), 2, 200).await;
        let pool = clients(bed, &bouncer).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        let mut consumers = JoinSet::new();
        for name in ["one", "two"] {
            let consumer = crate::support::consumer(&log, name).await;
            consumers.spawn(consume(log.clone(), consumer));
        }
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (log, pool) = (log.clone(), pool.clone());
            writers.spawn(async move {
                for n in 0..EVENTS {
                    let mut tx = pool.begin().await.expect("begin");
                    bump(&log, &mut tx, 1 + (writer + n) % 5).await.expect("bump");
                    tx.commit().await.expect("commit");
                }
            });
        }
        writers.join_all().await;
        let committed = bed.committed().await;
        for events in consumers.join_all().await {
            assert_first_deliveries_in_order(&events);
            assert_eq!(events.len(), committed.len(), "an event came twice");
            assert_eq!(events.iter().map(|event| event.event.id).collect::<BTreeSet<_>>(), committed);
        }
        let servers: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pooled'",
        )
        .fetch_one(&bed.pool)
        .await
        .expect("count");
        assert!((1..=2).contains(&servers), "{servers} connections to the server");
        pool.close().await;
    }

    /// Who waited too long for a server is told so with the same SQLSTATE, and may try again.
    async fn a_pooler_without_a_free_server_is_no_mix_up(bed: &Bed) {
        let bouncer = OwnPgBouncer::start(&bed.pool.connect_options(), 1, 200).await;
        let options = bouncer.options(&bed.pool.connect_options());
        let mut console = PgConnection::connect_with(&options.clone().database("pgbouncer")).await.expect("console");
        sqlx::raw_sql("SET query_wait_timeout = 1").execute(&mut console).await.expect("set");
        let pool = PgPoolOptions::new().max_connections(2).test_before_acquire(false);
        let pool = pool.connect_with(options).await.expect("connect");
        let busy = pool.begin().await.expect("begin");
        let refused = PostgresLog::builder(pool.clone()).build().identity().await.expect_err("no server");
        let source = refused.source().map(ToString::to_string).unwrap_or_default();
        assert!(source.contains("query_wait_timeout"), "{refused}: {source}");
        assert_eq!(refused.kind(), LogErrorKind::Unavailable);
        drop(busy);
        pool.close().await;
    }

    /// With an old PgBouncer, or with this switched off, a statement is missing on the next server or is another
    /// client's. What happens is luck, so not each failure is the same one; those that can be recognised are told.
    async fn a_pooler_that_mixes_up_statements_is_told_with_advice(bed: &Bed) {
        let bouncer = OwnPgBouncer::start(&bed.pool.connect_options(), 2, 0).await;
        let pool = clients(bed, &bouncer).await;
        let log = PostgresLog::builder(pool.clone()).build();
        let mut clients = JoinSet::new();
        for n in 0..CLIENTS {
            let (log, pool) = (log.clone(), pool.clone());
            clients.spawn(async move {
                let (mut reading, mut writing) = (Vec::new(), Vec::new());
                for _ in 0..20 {
                    reading.extend(log.identity().await.err());
                    // `BEGIN` is no prepared statement.
                    let mut tx = pool.begin().await.expect("begin");
                    writing.extend(log.append(&mut tx, &[changed(n.into(), 1)]).await.err());
                    drop(tx);
                }
                (reading, writing)
            });
        }
        let advice = "use PgBouncer 1.21 or later with max_prepared_statements above 0";
        let (mut reading, mut writing) = (0, 0);
        for (of_reading, of_writing) in clients.join_all().await {
            let told = |kind, message: String| kind == LogErrorKind::Database && message.contains(advice);
            reading += of_reading.iter().filter(|error| told(error.kind(), error.to_string())).count();
            let told = |kind, message: String| kind == AppendErrorKind::Database && message.contains(advice);
            writing += of_writing.iter().filter(|error| told(error.kind(), error.to_string())).count();
        }
        assert!(reading > 0 && writing > 0, "{reading} reads and {writing} appends were told");
        pool.close().await;
    }
}
