//! The server as a whole.

use outbox_core::log::{Claim, MemberId};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use test_services::{OwnPostgres, PostgresVersion};
use uuid::{NoContext, Timestamp, Uuid};

use super::examine;
use crate::support::{Bed, Ended, LEASE, PASSWORD, outbox};

async fn with_bed(case: impl AsyncFn(&Bed)) {
    for version in PostgresVersion::ALL {
        Bed::run_on(Bed::postgres(version).await, &case).await;
    }
}

#[tokio::test]
async fn a_transaction_that_stays_open() {
    with_bed(async |bed| {
        examine(bed, &["--max-transaction", "0s"]).await.assert_found("transactions", "ok", &[]);
        let mut open = bed.pool().begin().await.expect("begin");
        sqlx::query("SELECT pg_current_xact_id()").execute(&mut *open).await.expect("an id");
        let found = examine(bed, &["--max-transaction", "0s"]).await;
        found.assert_found(
            "transactions",
            "problem",
            &["a transaction of postgres", "idle in transaction", "is open for"],
        );
        examine(bed, &[]).await.assert_found("transactions", "ok", &["none is open for 5 min"]);
        open.rollback().await.expect("rollback");
    })
    .await;
}

#[tokio::test]
async fn a_prepared_transaction_that_was_forgotten() {
    with_bed(async |bed| {
        let mut conn = bed.pool().acquire().await.expect("connection");
        // Names are the server's, which other tests share.
        let name = Uuid::now_v7();
        for sql in ["BEGIN", "SELECT pg_current_xact_id()", &format!("PREPARE TRANSACTION '{name}'")] {
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *conn).await.expect(sql);
        }
        let found = examine(bed, &["--max-transaction", "0s"]).await;
        found.assert_found("transactions", "problem", &[&name.to_string(), "is prepared for"]);
        let rollback = format!("ROLLBACK PREPARED '{name}'");
        sqlx::raw_sql(AssertSqlSafe(rollback)).execute(&mut *conn).await.expect("rollback");
    })
    .await;
}

/// On a server of its own: slots are the whole server's.
#[tokio::test]
async fn a_replication_slot_that_nobody_reads() {
    let server = OwnPostgres::create(PostgresVersion::V15).await;
    let url = server.url();
    assert_eq!(outbox(&["migrate"], Some(&url)).await.code, 0);
    let mut conn = PgConnection::connect(&url).await.expect("connect");
    sqlx::query("SELECT pg_create_physical_replication_slot('gone', true)").execute(&mut conn).await.expect("slot");
    let Ended { code, out, .. } = outbox(&["doctor", "--quiet"], Some(&url)).await;
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("WARNING  transactions") && out.contains("slot gone is read by nobody"), "{out}");
    let Ended { code, out, .. } = outbox(&["doctor", "--quiet", "--max-wal", "0"], Some(&url)).await;
    assert_eq!(code, 3, "{out}");
    assert!(out.contains("PROBLEM  transactions") && out.contains("pg_drop_replication_slot('gone')"), "{out}");
    conn.close().await.expect("close");
}

#[tokio::test]
async fn a_role_that_sees_only_itself() {
    with_bed(async |bed| {
        let role = format!("app_{}", Uuid::now_v7().simple());
        for sql in [
            format!("CREATE ROLE {role} LOGIN"),
            format!("GRANT USAGE ON SCHEMA outbox TO {role}"),
            format!("GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO {role}"),
            format!("GRANT SELECT ON ALL SEQUENCES IN SCHEMA outbox TO {role}"),
        ] {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(bed.pool()).await.expect("grant");
        }
        let (_, rest) = bed.url.split_once('@').expect("a host");
        let restricted = format!("postgres://{role}:{PASSWORD}@{rest}");
        let Ended { code, out, .. } = outbox(&["doctor", "--quiet"], Some(&restricted)).await;
        assert_eq!(code, 0, "{out}");
        assert!(out.contains("WARNING  transactions") && out.contains("pg_monitor"), "{out}");
        assert!(!out.contains("could not be looked at"), "reading is enough for the rest: {out}");
        for sql in [format!("DROP OWNED BY {role}"), format!("DROP ROLE {role}")] {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(bed.pool()).await.expect("drop");
        }
    })
    .await;
}

/// The log remembers on which timeline it was anchored.
#[tokio::test]
async fn a_timeline_that_changed() {
    with_bed(async |bed| {
        examine(bed, &[]).await.assert_found("server", "ok", &["timeline 1"]);
        // As if it had been made before a promotion.
        bed.execute("UPDATE outbox_generation SET timeline = 7").await;
        examine(bed, &[]).await.assert_found("server", "warning", &["from 7 to 1"]);
        bed.fine(&["reanchor", "--yes"]).await;
        examine(bed, &[]).await.assert_found("server", "ok", &[]);
    })
    .await;
}

#[tokio::test]
async fn a_member_whose_clock_is_ahead() {
    with_bed(async |bed| {
        let consumer = bed.register("relay").await;
        let hour_ahead = chrono::Utc::now().timestamp().cast_unsigned() + 3_600;
        let id = Uuid::new_v7(Timestamp::from_unix(NoContext, hour_ahead, 0));
        bed.log().join(&consumer, MemberId(id), Claim::Share, LEASE).await.expect("join");
        let found = examine(bed, &[]).await;
        found.assert_found("clocks", "warning", &[&id.to_string(), "consumer relay", "ahead when it joined"]);
    })
    .await;
}

/// Moved here by dump and restore from a server that had come further.
#[tokio::test]
async fn rows_of_another_servers_transactions() {
    with_bed(async |bed| {
        bed.append_some(1, 2).await;
        bed.execute("UPDATE outbox_event SET xid = '1000000000000' WHERE position = 2").await;
        let found = examine(bed, &[]).await;
        found.assert_found("cursors", "problem", &["events of transaction 1000000000000"]);
        bed.fine(&["reanchor", "--yes"]).await;
        examine(bed, &[]).await.assert_found("cursors", "ok", &[]);
    })
    .await;
}
