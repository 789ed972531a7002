//! A log whose events lie in a ring of leaves.

use std::time::Duration;

use outbox_core::{
    event::LaneCount,
    log::{LogAdmin as _, LogErrorKind, RetentionPolicy},
    outbox::Outbox as _,
};
use outbox_sqlx::{PostgresLog, postgres::SchemaName};
use sqlx::{AssertSqlSafe, PgPool};
use test_services::{PostgresVersion, TestDatabase};

use super::{Relay, left, prune, prune_down_to, until};
use crate::support::{Bed, aggregates, blocks_touched, changed, named};

/// Positions of one leaf that are next to each other.
const WINDOW: i64 = 1 << 20;

impl Bed {
    pub(crate) async fn create_ring(version: PostgresVersion) -> Self {
        let database = TestDatabase::create(version).await;
        let pool = database.connect(24).await;
        let log = PostgresLog::builder(pool.clone()).ring().migrate().await.expect("migrate");
        aggregates(&pool).await;
        Self { database, pool, log }
    }
}

macro_rules! on_rings {
    ($($(#[$meta:meta])* async fn $name:ident($bed:ident: &Bed) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, clippy::wildcard_imports)]
            use super::*;

            async fn case($bed: &Bed) $body

            async fn on(version: PostgresVersion) {
                let bed = Bed::create_ring(version).await;
                case(&bed).await;
                bed.drop().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_15() {
                on(PostgresVersion::V15).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_18() {
                on(PostgresVersion::V18).await;
            }
        }
    )*};
}

on_rings! {
    async fn leaves_that_everybody_has_passed_are_emptied_as_a_whole(bed: &Bed) {
        let relay = Relay::begin(&bed.log, "relay").await;
        for window in 0..3 {
            skip_to(bed, window * WINDOW).await;
            for aggregate in 1..=3 {
                bed.bump_and_commit(aggregate).await;
            }
        }
        assert_eq!(prune(&bed.log).await.removed, 0, "nobody has read anything");
        relay.one_page(5).await;
        // The window of the fourth and fifth is not passed as a whole.
        prune_down_to(bed, 6).await;
        assert_eq!(relay.catch_up().await.len(), 4);
        prune_down_to(bed, 0).await;
        assert_eq!(sizes(bed, 0..3).await, [0, 0, 8192], "of the newest window rows were deleted");

        bed.bump_and_commit(1).await;
        assert_eq!(relay.catch_up().await, [named(1, 4)], "and the log goes on");
    }

    /// The policy may keep only some of them; the leaf waits for the last.
    async fn a_leaf_waits_until_its_youngest_event_may_go(bed: &Bed) {
        let relay = Relay::begin(&bed.log, "relay").await;
        let old = chrono::Utc::now() - Duration::from_hours(48);
        let mut tx = bed.begin().await;
        let events = [changed(1, 1).with_created_at(old), changed(1, 2), changed(1, 3).with_created_at(old)];
        let _receipt = bed.log.append(&mut tx, &events).await.expect("append");
        tx.commit().await.expect("commit");
        skip_to(bed, WINDOW).await;
        bed.bump_and_commit(2).await;
        relay.catch_up().await;
        let day = RetentionPolicy::default().keep_for(Duration::from_hours(24));
        assert_eq!(bed.log.prune(&day).await.expect("prune").removed, 0);
        sqlx::query("UPDATE outbox.outbox_event SET created_at = $1 WHERE position < $2")
            .bind(old)
            .bind(WINDOW)
            .execute(&bed.pool)
            .await
            .expect("age");
        until("the leaf is emptied", async || {
            bed.log.prune(&day).await.expect("prune");
            left(bed).await == 1
        })
        .await;
        assert_eq!(sizes(bed, 0..1).await, [0]);
    }

    /// The policy keeps one that is not the newest: the leaf is asked for one that has to stay, not counted.
    async fn a_leaf_that_waits_is_not_walked_over_at_each_call(bed: &Bed) {
        // One session does all of it, and counts what it touches.
        let pool = bed.database.connect(1).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        for sql in [
            // Its reads would be counted with those that are looked at.
            "ALTER TABLE outbox.outbox_event_leaf_0 SET (autovacuum_enabled = off)",
            "INSERT INTO outbox.outbox_event (lane, id, aggregate_type, aggregate_id, event_type, content_type, payload,
                created_at)
            SELECT 0, gen_random_uuid(), 'Agg', '1', 'AggChanged', 'application/json',
                convert_to('{\"v\": ' || n || '}', 'UTF8'), now() - interval '2 days' * (n <> 19990)::integer
            FROM generate_series(1, 20000) AS n",
        ] {
            sqlx::query(sql).execute(&pool).await.expect(sql);
        }
        skip_to(bed, WINDOW).await;
        bed.bump_and_commit(2).await;
        Relay::begin(&log, "relay").await.catch_up().await;
        // Before that the leaf is not looked at.
        all_have_ended(&pool).await;
        let day = RetentionPolicy::default().keep_for(Duration::from_hours(24));
        let before = blocks_touched(&pool, &["outbox_event_leaf_0"]).await;
        assert_eq!(log.prune(&day).await.expect("prune").removed, 0);
        let touched = blocks_touched(&pool, &["outbox_event_leaf_0"]).await - before;
        assert!(touched < 50, "a leaf that waits was touched {touched} times");
        sqlx::query("UPDATE outbox.outbox_event SET created_at = now() - interval '2 days' WHERE position = 19990")
            .execute(&pool)
            .await
            .expect("age");
        let mut dump = bed.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("begin");
        sqlx::query("SELECT FROM outbox.outbox_event_leaf_0 LIMIT 1").execute(&mut *dump).await.expect("read");
        let before = blocks_touched(&pool, &["outbox_event_leaf_0"]).await;
        assert_eq!(log.prune(&day).await.expect("prune").removed, 0);
        let touched = blocks_touched(&pool, &["outbox_event_leaf_0"]).await - before;
        assert!(touched < 1_000, "a leaf in use was touched {touched} times");
        dump.rollback().await.expect("rollback");
        until("the leaf is emptied", async || {
            log.prune(&day).await.expect("prune");
            left(bed).await == 1
        })
        .await;
        pool.close().await;
    }

    /// A dump or a report reads for hours.
    async fn a_leaf_in_use_is_left_alone_and_nobody_waits(bed: &Bed) {
        let relay = Relay::begin(&bed.log, "relay").await;
        bed.bump_and_commit(1).await;
        skip_to(bed, WINDOW).await;
        bed.bump_and_commit(1).await;
        relay.catch_up().await;

        let mut dump = bed.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("begin");
        let read = "SELECT count(*) FROM outbox.outbox_event";
        let there: i64 = sqlx::query_scalar(read).fetch_one(&mut *dump).await.expect("read");
        assert_eq!(there, 2);
        for _ in 0..3 {
            assert_eq!(prune(&bed.log).await.removed, 0, "there is time");
        }
        bed.bump_and_commit(1).await;
        assert_eq!(relay.catch_up().await, [named(1, 3)], "writers and readers go on");
        let still: i64 = sqlx::query_scalar(read).fetch_one(&mut *dump).await.expect("read");
        assert_eq!(still, 2, "as it began");
        dump.commit().await.expect("commit");
        prune_down_to(bed, 0).await;
        assert_eq!(sizes(bed, 0..1).await, [0]);
    }

    /// Nobody pruned in time: the writers come round to a leaf that still has its old events.
    async fn writers_that_come_round_find_room(bed: &Bed) {
        let relay = Relay::begin(&bed.log, "relay").await;
        bed.bump_and_commit(1).await;
        skip_to(bed, 16 * WINDOW).await;
        bed.bump_and_commit(1).await;
        bed.bump_and_commit(2).await;
        assert_eq!(sizes(bed, 0..1).await, [8192], "two windows in one leaf");
        let page = relay.one_page(1).await;
        assert_eq!(page.events.len(), 1);
        prune_down_to(bed, 2).await;
        assert_eq!(relay.catch_up().await, [named(1, 2), named(2, 1)]);
        skip_to(bed, 17 * WINDOW).await;
        bed.bump_and_commit(1).await;
        assert_eq!(relay.catch_up().await, [named(1, 3)]);
        until("16 million positions of nothing are passed", async || {
            prune(&bed.log).await;
            left(bed).await == 0
        })
        .await;
        assert_eq!(sizes(bed, 0..1).await, [0], "the second window went as a whole");
    }

    /// An event may commit late into a leaf that others have passed long ago.
    async fn a_leaf_waits_for_open_transactions(bed: &Bed) {
        let relay = Relay::begin(&bed.log, "relay").await;
        let mut slow = bed.begin().await;
        let _receipt = bed.log.append(&mut slow, &[changed(1, 1)]).await.expect("append");
        bed.bump_and_commit(2).await;
        skip_to(bed, WINDOW).await;
        bed.bump_and_commit(2).await;
        relay.catch_up().await;
        prune(&bed.log).await;
        slow.commit().await.expect("commit");
        prune(&bed.log).await;
        assert_eq!(relay.catch_up().await, [named(1, 1)]);
        prune_down_to(bed, 0).await;
        assert_eq!(sizes(bed, 0..1).await, [0]);
    }

    async fn a_plain_log_does_not_become_a_ring(bed: &Bed) {
        let schema = || SchemaName::parse("plain").expect("name");
        let builder = || PostgresLog::builder(bed.pool.clone()).schema(schema());
        builder().migrate().await.expect("migrate");
        for refused in [builder().ring().open().await, builder().ring().migrate().await] {
            assert_eq!(refused.expect_err("plain").kind(), LogErrorKind::Incompatible);
        }
        let ring = || PostgresLog::builder(bed.pool.clone());
        ring().open().await.expect("taken as it is");
        ring().ring().migrate().await.expect("a ring already");
    }

    /// Views, functions and the script for other tools know the ring as well.
    async fn a_ring_made_by_another_tool(bed: &Bed) {
        let schema = SchemaName::parse("scripted").expect("name");
        let script = PostgresLog::ring_migration_sql(&schema, LaneCount::default());
        sqlx::raw_sql(AssertSqlSafe(script)).execute(&bed.pool).await.expect("script");
        let log = PostgresLog::builder(bed.pool.clone()).schema(schema).ring().migrate().await.expect("recognised");
        let mut tx = bed.begin().await;
        let _receipt = log.append(&mut tx, &[changed(1, 1)]).await.expect("append");
        sqlx::query("SELECT scripted.outbox_append('Agg', '1', 'AggChanged', '{\"v\": 2}'::jsonb)")
            .execute(&mut *tx)
            .await
            .expect("append in SQL");
        tx.commit().await.expect("commit");
        let relay = Relay::begin(&log, "relay").await;
        assert_eq!(relay.catch_up().await, [named(1, 1), named(1, 2)]);
        let shown: Vec<String> =
            sqlx::query_scalar("SELECT payload FROM scripted.outbox_event_text ORDER BY position")
                .fetch_all(&bed.pool)
                .await
                .expect("view");
        assert_eq!(shown.len(), 2);
    }
}

/// Waits for the end of every transaction of the server that has begun to write. Those of other tests give no signal.
async fn all_have_ended(pool: &PgPool) {
    let newest: String =
        sqlx::query_scalar("SELECT pg_current_xact_id()::text").fetch_one(pool).await.expect("an id of its own");
    until("all transactions have ended", async || {
        sqlx::query_scalar("SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8")
            .bind(&newest)
            .fetch_one(pool)
            .await
            .expect("snapshot")
    })
    .await;
}

/// The next position is the one after this.
async fn skip_to(bed: &Bed, position: i64) {
    if position > 0 {
        sqlx::query("SELECT setval('outbox.outbox_event_position_seq', $1)")
            .bind(position)
            .execute(&bed.pool)
            .await
            .expect("setval");
    }
}

/// The bytes of leaves; only a whole leaf that is emptied gives them back at once.
async fn sizes(bed: &Bed, leaves: std::ops::Range<i32>) -> Vec<i64> {
    sqlx::query_scalar(
        "SELECT pg_relation_size(('outbox.outbox_event_leaf_' || n)::regclass) FROM generate_series($1, $2 - 1) AS n ORDER BY n",
    )
    .bind(leaves.start)
    .bind(leaves.end)
    .fetch_all(&bed.pool)
    .await
    .expect("sizes")
}
