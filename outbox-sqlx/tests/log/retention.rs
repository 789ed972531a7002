//! Retention beside writers, readers, other pruners and new consumers.

mod random;
mod ring;

use std::time::Duration;

use outbox_core::{
    log::{ConsumerName, Cursor, EventLog as _, LogAdmin as _, LogErrorKind, Pruned, RetentionPolicy, StartAt, Track},
    outbox::Outbox as _,
};
use outbox_sqlx::PostgresLog;
use sqlx::{PgPool, Postgres, Transaction};

use crate::support::{
    Bed, changed, consumer, everything, join, moved, named, on_postgres, only, read, versions, waiting_for_locks,
};

on_postgres! {
    /// Its position lies below what was removed. It must neither go unseen nor stay for ever.
    async fn an_event_that_commits_late_is_delivered_and_then_removed(bed: &Bed) {
        let relay = Relay::begin(&bed.log, "relay").await;
        let mut slow = bed.begin().await;
        let _receipt = bed.log.append(&mut slow, &[changed(1, 1)]).await.expect("append");
        for _ in 0..3 {
            bed.bump_and_commit(2).await;
        }
        assert_eq!(relay.catch_up().await, [named(2, 1), named(2, 2), named(2, 3)]);
        assert_eq!(prune(&bed.log).await.removed, 3, "those behind the open one");

        slow.commit().await.expect("commit");
        let held = prune(&bed.log).await;
        assert_eq!((held.removed, left(bed).await), (0, 1), "nobody has seen it");
        assert_eq!(relay.catch_up().await, [named(1, 1)]);
        prune_down_to(bed, 0).await;

        bed.bump_and_commit(2).await;
        assert_eq!(relay.catch_up().await, [named(2, 4)], "and the log goes on");
        prune_down_to(bed, 0).await;
    }

    /// A page that ends in the middle of a window is not yet the window.
    async fn a_consumer_in_the_middle_of_a_window_keeps_the_rest(bed: &Bed) {
        let relay = Relay::begin(&bed.log, "relay").await;
        for _ in 0..6 {
            bed.bump_and_commit(2).await;
        }
        relay.one_page(4).await;
        let pruned = prune(&bed.log).await;
        assert_eq!((pruned.removed, left(bed).await), (4, 2));
        assert_eq!(pruned.held_back_by.as_ref().map(ConsumerName::as_str), Some("relay"));
        assert_eq!(relay.catch_up().await, [named(2, 5), named(2, 6)]);
    }

    /// One that stands by owns nothing and holds nothing back; lanes that were given back count where they are.
    async fn lanes_that_nobody_owns_count_and_standbys_do_not(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let owner = join(&bed.log, &name).await;
        let standby = join(&bed.log, &name).await;
        assert_eq!(standby.tracks, []);
        for _ in 0..4 {
            bed.bump_and_commit(2).await;
        }
        let start = only(&owner.tracks);
        let half = read(&bed.log, &start, 2).await.next;
        bed.log.checkpoint(&owner.fence, &moved(&start, &half)).await.expect("checkpoint");
        bed.log.leave(&owner.fence).await.expect("leave");
        assert_eq!(prune(&bed.log).await.removed, 2, "as far as the free lanes were");

        let gained = bed.log.renew(&standby.fence, Duration::from_mins(10)).await.expect("renew").gained;
        let events = read(&bed.log, &only(&gained), 10).await.events;
        assert_eq!(versions(&events), [named(2, 3), named(2, 4)]);
    }

    /// A pruner is in the middle of a step, waiting for somebody's lock on an event: writers, readers and other pruners
    /// go on, and only who registers waits for the end of the step.
    async fn nobody_waits_for_a_step_but_who_registers(bed: &Bed) {
        let relay = Relay::begin(&bed.log, "relay").await;
        for _ in 0..4 {
            bed.bump_and_commit(2).await;
        }
        relay.catch_up().await;
        let blocker = lock_an_event(&bed.pool).await;
        let step = spawn_prune(&bed.log);
        waiting_for_locks(&bed.pool, 1).await;

        bed.bump_and_commit(3).await;
        assert_eq!(relay.catch_up().await, [named(3, 1)], "written, read and recorded");
        assert_eq!(prune(&bed.log).await, Pruned::default(), "another pruner comes back at once");
        let late = ConsumerName::parse("late").expect("name");
        let registering = tokio::spawn({
            let (log, late) = (bed.log.clone(), late.clone());
            async move { log.register(&late, StartAt::Beginning).await.expect("register") }
        });
        waiting_for_locks(&bed.pool, 2).await;

        blocker.rollback().await.expect("rollback");
        registering.await.expect("registered");
        assert_eq!(step.await.expect("task").expect("prune").removed, 4, "what was there when the step began");
        assert_eq!(versions(&everything(&bed.log, &late).await), [named(3, 1)], "the beginning is what is left");
        let held = prune(&bed.log).await;
        assert_eq!((held.removed, held.held_back_by), (0, Some(late)), "from now on it counts");
    }

    /// A step is whole or has not happened.
    async fn a_step_that_is_killed_leaves_everything(bed: &Bed) {
        let relay = Relay::begin(&bed.log, "relay").await;
        for _ in 0..4 {
            bed.bump_and_commit(2).await;
        }
        relay.catch_up().await;
        for by_whom in ["the server", "the caller"] {
            let blocker = lock_an_event(&bed.pool).await;
            let step = spawn_prune(&bed.log);
            waiting_for_locks(&bed.pool, 1).await;
            let in_the_middle = "SELECT pid FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
            if by_whom == "the server" {
                let kill = format!("SELECT pg_terminate_backend(pid) FROM ({in_the_middle}) AS p");
                sqlx::query(sqlx::AssertSqlSafe(kill)).execute(&bed.pool).await.expect("terminate");
                let failed = step.await.expect("task").expect_err("killed");
                assert_eq!(failed.kind(), LogErrorKind::Unavailable, "{failed:?}");
            } else {
                step.abort();
                step.await.expect_err("aborted");
            }
            blocker.rollback().await.expect("rollback");
            // The server notices by itself that the caller is gone, which gives no signal.
            until("the step is over", async || {
                sqlx::query_scalar("SELECT count(*) = 0 FROM pg_locks WHERE relation = 'outbox.outbox_retention'::regclass")
                    .fetch_one(&bed.pool)
                    .await
                    .expect("locks")
            })
            .await;
            if by_whom == "the server" {
                assert_eq!(left(bed).await, 4, "{by_whom}");
            }
        }
        prune_down_to(bed, 0).await;
    }

    /// The history of memberships that are over goes with the events it is about; places stay.
    async fn the_history_of_past_memberships_goes_with_the_events(bed: &Bed) {
        for round in 1..=3 {
            let relay = Relay::begin(&bed.log, "relay").await;
            bed.bump_and_commit(2).await;
            assert_eq!(relay.catch_up().await, [named(2, round)]);
            relay.leave().await;
        }
        let rows = async || -> i64 {
            let rows = sqlx::query_scalar("SELECT count(*) FROM outbox.outbox_checkpoint").fetch_one(&bed.pool);
            rows.await.expect("count")
        };
        assert!(rows().await >= 3);
        until("the events are swept", async || {
            prune(&bed.log).await;
            rows().await == 0
        })
        .await;
        bed.bump_and_commit(2).await;
        let relay = Relay::begin(&bed.log, "relay").await;
        assert_eq!(relay.catch_up().await, [named(2, 4)]);
    }

    /// Dead rows that nobody can vacuum away, and statistics of an empty table: the last step costs what the first one
    /// did.
    async fn a_step_does_not_walk_over_what_was_removed(bed: &Bed) {
        const EVENTS: i64 = 40_000;
        sqlx::query("ANALYZE outbox.outbox_event").execute(&bed.pool).await.expect("analyze");
        sqlx::query(
            "INSERT INTO outbox.outbox_event (lane, id, aggregate_type, aggregate_id, event_type, content_type, created_at)
            SELECT n % 64, gen_random_uuid(), 'Agg', n::text, 'AggErased', 'application/json', now()
            FROM generate_series(1, $1) AS n",
        )
        .bind(EVENTS)
        .execute(&bed.pool)
        .await
        .expect("fill");
        let name = ConsumerName::parse("relay").expect("name");
        bed.log.register(&name, StartAt::End).await.expect("register");
        let mut reader = bed.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("begin");
        sqlx::query("SELECT 1").execute(&mut *reader).await.expect("a snapshot");

        // One connection, so that its own statistics can be asked for.
        let pool = bed.database.connect(1).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        let blocks = async || -> i64 {
            sqlx::query("SELECT pg_stat_force_next_flush()").execute(&pool).await.expect("flush");
            let blocks = sqlx::query_scalar(
                "SELECT (heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::bigint
                FROM pg_statio_all_tables WHERE relid = 'outbox.outbox_event'::regclass",
            );
            blocks.fetch_one(&bed.pool).await.expect("statistics")
        };
        let mut costs = Vec::new();
        let mut removed = 0;
        while removed < EVENTS as u64 {
            let before = blocks().await;
            // 1,250, 2,500 and 5,000 positions.
            let pruned = log.prune(&RetentionPolicy::default().steps(3)).await.expect("prune");
            removed += pruned.removed;
            costs.push((blocks().await - before) as f64 / pruned.removed as f64);
        }
        println!("blocks for each event: {costs:.2?}");
        let (first, last) = (costs[0], costs[costs.len() - 1]);
        assert!(last < 1.3 * first, "the last events cost {last} blocks each, the first ones {first}");
        drop(reader);
        pool.close().await;
    }

    /// As the documentation says, and no more.
    async fn the_rights_that_pruning_needs(bed: &Bed) {
        let relay = Relay::begin(&bed.log, "relay").await;
        bed.bump_and_commit(2).await;
        relay.catch_up().await;
        let role = format!("{}_pruner", bed.database.name());
        let execute = async |sql: String| {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&bed.pool).await.expect("as superuser");
        };
        execute(format!(
            "CREATE ROLE {role}; GRANT USAGE ON SCHEMA outbox TO {role};
            GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO {role};
            GRANT SELECT ON outbox.outbox_event_position_seq TO {role};
            GRANT DELETE ON outbox.outbox_checkpoint TO {role};
            GRANT UPDATE ON outbox.outbox_retention TO {role};"
        ))
        .await;
        let become_it = format!("SET ROLE {role}");
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(2)
            .after_connect(move |conn, _| {
                let become_it = become_it.clone();
                Box::pin(async move { sqlx::raw_sql(sqlx::AssertSqlSafe(become_it)).execute(conn).await.map(drop) })
            })
            .connect(bed.database.url())
            .await
            .expect("connect");
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        let refused = log.prune(&RetentionPolicy::default()).await.expect_err("may not delete");
        assert_eq!(refused.kind(), LogErrorKind::Database);
        execute(format!("GRANT DELETE ON outbox.outbox_event TO {role}")).await;
        until("the event is gone", async || {
            prune(&log).await;
            left(bed).await == 0
        })
        .await;
        pool.close().await;
        execute(format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    }

    /// What of a place is beyond the server tells that somebody restored it.
    async fn a_place_of_another_server_is_refused(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        bed.bump_and_commit(2).await;
        let cursor = only(&bed.log.progress(&name).await.expect("progress").tracks).cursor;
        let beyond = cursor.as_text().replace("1:1:", "900000000000:900000000000:").replace(" 0 1", " 0 900000000000");
        assert_ne!(beyond, cursor.as_text());
        sqlx::query("UPDATE outbox.outbox_consumer SET start_cursor = $1").bind(beyond).execute(&bed.pool).await.expect("set");
        let refused = bed.log.prune(&RetentionPolicy::default()).await.expect_err("beyond the server");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);
        assert_eq!(left(bed).await, 1);
    }
}

/// A consumer whose one member has all lanes.
pub(crate) struct Relay {
    log: PostgresLog,
    fence: outbox_core::log::Fence,
    track: std::sync::Mutex<Track>,
}

impl Relay {
    pub(crate) async fn begin(log: &PostgresLog, name: &str) -> Self {
        let name = consumer(log, name).await;
        let assignment = join(log, &name).await;
        let track = std::sync::Mutex::new(only(&assignment.tracks));
        Self { log: log.clone(), fence: assignment.fence, track }
    }

    fn track(&self) -> Track {
        self.track.lock().expect("no panic").clone()
    }

    async fn move_to(&self, cursor: &Cursor) {
        let moved = moved(&self.track(), cursor);
        self.log.checkpoint(&self.fence, &moved).await.expect("checkpoint");
        *self.track.lock().expect("no panic") = only(&moved);
    }

    /// Reads a page and records it.
    pub(crate) async fn one_page(&self, limit: usize) -> outbox_core::log::Page {
        let page = read(&self.log, &self.track(), limit).await;
        self.move_to(&page.next).await;
        page
    }

    /// Reads all there is, records it, and tells what it was.
    pub(crate) async fn catch_up(&self) -> Vec<(String, i64)> {
        let mut events = Vec::new();
        loop {
            let page = self.one_page(1_000).await;
            events.extend(page.events);
            if page.caught_up {
                return versions(&events);
            }
        }
    }

    async fn leave(self) {
        self.log.leave(&self.fence).await.expect("leave");
    }
}

pub(crate) async fn prune(log: &PostgresLog) -> Pruned {
    log.prune(&RetentionPolicy::default()).await.expect("prune")
}

/// One step.
fn spawn_prune(log: &PostgresLog) -> tokio::task::JoinHandle<Result<Pruned, outbox_core::log::LogError>> {
    let log = log.clone();
    tokio::spawn(async move { log.prune(&RetentionPolicy::default().steps(1)).await })
}

pub(crate) async fn left(bed: &Bed) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM outbox.outbox_event").fetch_one(&bed.pool).await.expect("count")
}

/// Prunes until so many events are left. Transactions of other tests on the same server delay it, and their end gives no
/// signal.
pub(crate) async fn prune_down_to(bed: &Bed, events: i64) {
    until("everything that may go is gone", async || {
        prune(&bed.log).await;
        let left = left(bed).await;
        assert!(left >= events, "{left} events are left, not {events}");
        left == events
    })
    .await;
}

/// Polls, because of what the callers say.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whoever deletes this event has to wait.
async fn lock_an_event(pool: &PgPool) -> Transaction<'static, Postgres> {
    let mut blocker = pool.begin().await.expect("begin");
    sqlx::query("SELECT FROM outbox.outbox_event ORDER BY position LIMIT 1 FOR UPDATE")
        .execute(&mut *blocker)
        .await
        .expect("lock");
    blocker
}
