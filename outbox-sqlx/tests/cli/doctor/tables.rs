//! The log's own tables, and what was written to them.

use outbox_core::outbox::Outbox as _;
use test_services::PostgresVersion;

use super::examine;
use crate::support::{Bed, Store, changed};

async fn with_bed(case: impl AsyncFn(&Bed)) {
    for version in PostgresVersion::ALL {
        Bed::run_on(Bed::postgres(version).await, &case).await;
    }
}

#[tokio::test]
async fn an_index_that_is_missing_or_invalid() {
    with_bed(async |bed| {
        examine(bed, &[]).await.assert_found("indexes", "ok", &[]);
        let invalid = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'outbox_event_pkey'::regclass";
        bed.execute(invalid).await;
        examine(bed, &[]).await.assert_found("indexes", "problem", &["outbox_event_pkey is invalid"]);
        bed.execute("REINDEX INDEX outbox_event_pkey").await;
        examine(bed, &[]).await.assert_found("indexes", "ok", &[]);
        bed.execute("DROP INDEX outbox_event_xid_position").await;
        examine(bed, &[]).await.assert_found("indexes", "problem", &["no index (xid, position)"]);
    })
    .await;
}

/// Its leaves have indexes of their own.
#[tokio::test]
async fn a_ring_in_good_health_and_a_leaf_without_an_index() {
    for version in PostgresVersion::ALL {
        Bed::run_on(Bed::empty_postgres(version).await, async |bed| {
            bed.fine(&["migrate", "--ring"]).await;
            bed.append_some(1, 10).await;
            let member = bed.join("relay").await;
            bed.consume(&member).await;
            examine(bed, &[]).await.assert_fine();
            // The schema is not written before the name of a constraint.
            let drop = "ALTER TABLE outbox.outbox_event_leaf_7 DROP CONSTRAINT outbox_event_leaf_7_pkey";
            sqlx::raw_sql(drop).execute(bed.pool()).await.expect("drop");
            let says = ["outbox_event_leaf_7 has no index UNIQUE (position)"];
            examine(bed, &[]).await.assert_found("indexes", "problem", &says);
        })
        .await;
    }
}

#[tokio::test]
async fn a_sequence_with_a_cache() {
    with_bed(async |bed| {
        examine(bed, &[]).await.assert_found("sequence", "ok", &[]);
        bed.execute("ALTER SEQUENCE outbox_event_position_seq CACHE 50").await;
        examine(bed, &[]).await.assert_found("sequence", "problem", &["CACHE 50"]);
    })
    .await;
}

#[tokio::test]
async fn small_tables_that_vacuum_cannot_keep_small() {
    with_bed(async |bed| {
        bed.join("relay").await;
        examine(bed, &[]).await.assert_found("bloat", "ok", &[]);
        let mut open = bed.pool().begin().await.expect("begin");
        sqlx::query("SELECT pg_current_xact_id()").execute(&mut *open).await.expect("hold back vacuum");
        let renewals =
            "DO $$ BEGIN FOR n IN 1..15000 LOOP UPDATE outbox_member SET expires = expires; END LOOP; END $$";
        bed.execute(renewals).await;
        // Statistics follow within a second or so, and nothing tells when.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let found = loop {
            let found = examine(bed, &[]).await;
            if found.of("bloat")[0].0 != "ok" || std::time::Instant::now() > deadline {
                break found;
            }
        };
        found.assert_found("bloat", "warning", &["outbox_member has", "dead rows beside"]);
        open.rollback().await.expect("rollback");
    })
    .await;
}

/// Two writers of one aggregate that do not wait for each other, and a consumer that looks in between.
#[tokio::test]
async fn writers_that_opted_out_and_inverted() {
    with_bed(async |bed| {
        let Store::Postgres { log, pool, .. } = &bed.store else { unreachable!("on PostgreSQL") };
        let careless = log.already_locked();
        let member = bed.join("relay").await;
        let mut slow = pool.begin().await.expect("begin");
        let _receipt = careless.append(&mut slow, &[changed(1, 1)]).await.expect("append");
        // Another aggregate at the same time is as it should be.
        let mut other = pool.begin().await.expect("begin");
        let _receipt = careless.append(&mut other, &[changed(2, 1)]).await.expect("append");
        other.commit().await.expect("commit");
        bed.consume(&member).await;
        examine(bed, &[]).await.assert_found("order", "ok", &["no inversion"]);

        let mut quick = pool.begin().await.expect("begin");
        let _receipt = careless.append(&mut quick, &[changed(1, 2)]).await.expect("append");
        quick.commit().await.expect("commit");
        let again = bed.log().join(
            &member.fence.consumer,
            member.fence.member,
            outbox_core::log::Claim::All,
            crate::support::LEASE,
        );
        let again = again.await.expect("join");
        bed.consume(&again).await;
        slow.commit().await.expect("commit");
        let found = examine(bed, &[]).await;
        found.assert_found("order", "problem", &["keys: 1", "\"Agg/1\"", "position 3 was committed before position 1"]);
    })
    .await;
}

/// A transaction that began early and waited its turn: a lower transaction id behind a higher one, in order.
#[tokio::test]
async fn writers_that_wait_are_in_order() {
    with_bed(async |bed| {
        let Store::Postgres { log, pool, .. } = &bed.store else { unreachable!("on PostgreSQL") };
        let member = bed.join("relay").await;
        let mut early = pool.begin().await.expect("begin");
        sqlx::query("SELECT pg_current_xact_id()").execute(&mut *early).await.expect("an early id");
        bed.append_some(1, 1).await;
        let _receipt = log.append(&mut early, &[changed(1, 2)]).await.expect("append");
        bed.consume(&member).await;
        early.commit().await.expect("commit");
        examine(bed, &[]).await.assert_found("order", "ok", &["no inversion among 2 events"]);
    })
    .await;
}
