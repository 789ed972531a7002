//! A log in a database of its own, and a reader that remembers.

use std::collections::{BTreeMap, BTreeSet};

use outbox_core::{
    event::{LaneSet, NewEvent, RecordedEvent},
    log::{Assignment, Claim, ConsumerName, Cursor, EventLog, MemberId, Page, StartAt, Track},
    outbox::Outbox,
};
use outbox_sqlx::PostgresLog;
use serde_json::json;
use sqlx::{PgPool, Postgres, Transaction};
use std::time::Duration;
use test_services::{PostgresVersion, TestDatabase};
use uuid::Uuid;

/// One test on each version of PostgreSQL.
macro_rules! on_postgres {
    ($($(#[$meta:meta])* async fn $name:ident($bed:ident: &Bed) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, clippy::wildcard_imports)]
            use super::*;

            async fn case($bed: &Bed) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_15() {
                $crate::support::Bed::run(test_services::PostgresVersion::V15, async |bed| case(bed).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_18() {
                $crate::support::Bed::run(test_services::PostgresVersion::V18, async |bed| case(bed).await).await;
            }
        }
    )*};
}
pub(crate) use on_postgres;

pub(crate) const LEASE: Duration = Duration::from_mins(10);

/// A fresh database with a log and the aggregates of the scenarios.
pub(crate) struct Bed {
    pub(crate) database: TestDatabase,
    pub(crate) pool: PgPool,
    pub(crate) log: PostgresLog,
}

impl Bed {
    pub(crate) async fn run(version: PostgresVersion, case: impl AsyncFnOnce(&Bed)) {
        let bed = Self::create(version).await;
        case(&bed).await;
        bed.drop().await;
    }

    pub(crate) async fn create(version: PostgresVersion) -> Self {
        let database = TestDatabase::create(version).await;
        let pool = database.connect(24).await;
        let log = PostgresLog::builder(pool.clone()).migrate().await.expect("migrate");
        aggregates(&pool).await;
        Self { database, pool, log }
    }

    pub(crate) async fn drop(self) {
        self.pool.close().await;
        self.database.drop_database().await;
    }

    pub(crate) async fn begin(&self) -> Transaction<'static, Postgres> {
        self.pool.begin().await.expect("begin")
    }

    /// `update agg set v = v + 1`, and its event.
    pub(crate) async fn bump(&self, tx: &mut Transaction<'static, Postgres>, aggregate: i64) -> i64 {
        bump(&self.log, tx, aggregate).await.expect("bump")
    }

    /// One transaction with one event.
    pub(crate) async fn bump_and_commit(&self, aggregate: i64) {
        let mut tx = self.begin().await;
        self.bump(&mut tx, aggregate).await;
        tx.commit().await.expect("commit");
    }

    pub(crate) async fn follow(&self) -> Follower {
        Follower::from(self.log.clone(), StartAt::Beginning).await
    }

    /// The ids of all committed events.
    pub(crate) async fn committed(&self) -> BTreeSet<Uuid> {
        let ids: Vec<Uuid> =
            sqlx::query_scalar("SELECT id FROM outbox.outbox_event").fetch_all(&self.pool).await.expect("ids");
        let distinct: BTreeSet<Uuid> = ids.iter().copied().collect();
        assert_eq!(distinct.len(), ids.len(), "an event was recorded twice");
        distinct
    }
}

/// The aggregates that events are about, and a table that only gives a transaction its id.
pub(crate) async fn aggregates(pool: &PgPool) {
    for sql in [
        "CREATE TABLE agg (id bigint PRIMARY KEY, v bigint NOT NULL)",
        "INSERT INTO agg SELECT n, 0 FROM generate_series(1, 20) AS n",
        "CREATE TABLE elsewhere (note text)",
    ] {
        sqlx::query(sql).execute(pool).await.expect(sql);
    }
}

pub(crate) fn changed(aggregate: i64, v: i64) -> NewEvent {
    NewEvent::json("Agg", aggregate, "AggChanged", &json!({ "v": v })).expect("event")
}

pub(crate) async fn bump(
    log: &PostgresLog,
    tx: &mut Transaction<'static, Postgres>,
    aggregate: i64,
) -> Result<i64, Box<dyn std::error::Error + Send + Sync>> {
    let v: i64 = sqlx::query_scalar("UPDATE agg SET v = v + 1 WHERE id = $1 RETURNING v")
        .bind(aggregate)
        .fetch_one(&mut **tx)
        .await?;
    let _receipt = log.append(tx, &[changed(aggregate, v)]).await?;
    Ok(v)
}

pub(crate) async fn write_elsewhere(tx: &mut Transaction<'static, Postgres>) {
    sqlx::query("INSERT INTO elsewhere VALUES ('early')").execute(&mut **tx).await.expect("write elsewhere");
}

/// The aggregate and the version that an event of [`bump`] carries.
pub(crate) fn version(event: &RecordedEvent) -> (String, i64) {
    let payload: serde_json::Value =
        serde_json::from_slice(event.event.payload.as_deref().expect("a payload")).expect("JSON");
    (event.event.aggregate_id.to_string(), payload["v"].as_i64().expect("v"))
}

pub(crate) fn versions(events: &[RecordedEvent]) -> Vec<(String, i64)> {
    events.iter().map(version).collect()
}

pub(crate) fn named(aggregate: i64, v: i64) -> (String, i64) {
    (aggregate.to_string(), v)
}

/// A reader that follows a log on one path of cursors.
pub(crate) struct Follower {
    pub(crate) log: PostgresLog,
    pub(crate) cursor: Cursor,
    pub(crate) lanes: LaneSet,
    pub(crate) seen: Vec<RecordedEvent>,
}

impl Follower {
    pub(crate) async fn from(log: PostgresLog, start: StartAt) -> Self {
        let consumer = ConsumerName::parse(format!("follower-{}", Uuid::now_v7())).expect("name");
        log.register(&consumer, start).await.expect("register");
        let progress = log.progress(&consumer).await.expect("progress");
        let Track { cursor, lanes } = only(&progress.tracks);
        Self { log, cursor, lanes, seen: Vec::new() }
    }

    /// Where it is.
    pub(crate) fn track(&self) -> Track {
        Track { cursor: self.cursor.clone(), lanes: self.lanes }
    }

    /// Another process that goes on from a cursor.
    pub(crate) fn successor(&self, cursor: Cursor) -> Self {
        Self { log: self.log.clone(), cursor, lanes: self.lanes, seen: Vec::new() }
    }

    pub(crate) async fn page(&mut self, limit: usize) -> Page {
        let page = read(&self.log, &self.track(), limit).await;
        assert!(page.events.len() <= limit);
        self.cursor = page.next.clone();
        self.seen.extend(page.events.iter().cloned());
        page
    }

    /// Reads until nothing more is committed, and returns what is new.
    pub(crate) async fn catch_up(&mut self) -> Vec<RecordedEvent> {
        let known = self.seen.len();
        while !self.page(1_000).await.caught_up {}
        self.seen[known..].to_vec()
    }

    /// What a log promises: exactly the committed events, each once, and per aggregate in the order of `v`.
    pub(crate) fn assert_complete(&self, committed: &BTreeSet<Uuid>) {
        let ids: Vec<Uuid> = self.seen.iter().map(|event| event.event.id).collect();
        let distinct: BTreeSet<Uuid> = ids.iter().copied().collect();
        assert_eq!(distinct.len(), ids.len(), "an event came twice");
        assert_eq!(distinct, *committed, "what came is not what was committed");
        assert_first_deliveries_in_order(&self.seen);
    }
}

/// First deliveries of each aggregate come in the order of `v`.
pub(crate) fn assert_first_deliveries_in_order(deliveries: &[RecordedEvent]) {
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for event in deliveries.iter().filter(|event| known.insert(event.event.id)) {
        let (aggregate, v) = version(event);
        let before = newest.insert(aggregate.clone(), v).unwrap_or(0);
        assert!(before < v, "v{v} of aggregate {aggregate} came after v{before}");
    }
}

/// All that a consumer has before it.
pub(crate) async fn everything(log: &impl EventLog, consumer: &ConsumerName) -> Vec<RecordedEvent> {
    let mut track = only(&log.progress(consumer).await.expect("progress").tracks);
    let mut events = Vec::new();
    loop {
        let page = read(log, &track, 1_000).await;
        events.extend(page.events);
        track.cursor = page.next;
        if page.caught_up {
            return events;
        }
    }
}

pub(crate) async fn consumer(log: &impl EventLog, name: &str) -> ConsumerName {
    let consumer = ConsumerName::parse(name).expect("name");
    log.register(&consumer, StartAt::Beginning).await.expect("register");
    consumer
}

/// A member that asks for its share, with a lease that does not end during a test.
pub(crate) async fn join(log: &impl EventLog, consumer: &ConsumerName) -> Assignment {
    log.join(consumer, MemberId::random(), Claim::Share, LEASE).await.expect("join")
}

/// A member whose lease is over by the database's clock. It got what was free.
pub(crate) async fn expired_member(log: &impl EventLog, consumer: &ConsumerName) -> Assignment {
    log.join(consumer, MemberId::random(), Claim::Share, Duration::ZERO).await.expect("join")
}

/// The one track of all lanes.
pub(crate) fn only(tracks: &[Track]) -> Track {
    assert_eq!(tracks.len(), 1, "lanes at different places: {tracks:?}");
    tracks[0].clone()
}

/// One track's page.
pub(crate) async fn read(log: &impl EventLog, track: &Track, limit: usize) -> Page {
    let mut pages = log.read(std::slice::from_ref(track), limit).await.expect("read");
    assert_eq!(pages.len(), 1, "a page for each track");
    pages.remove(0)
}

/// The same lanes at another place.
pub(crate) fn moved(track: &Track, cursor: &Cursor) -> Vec<Track> {
    vec![Track { cursor: cursor.clone(), lanes: track.lanes }]
}

/// Waits until so many sessions of this database wait for a lock. Polls, because waiting for a lock gives no signal.
pub(crate) async fn waiting_for_locks(pool: &PgPool, sessions: i64) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .expect("activity");
        if waiting >= sessions {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{waiting} sessions wait for a lock, not {sessions}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Blocks of some tables of the log and their indexes that were touched so far, by sessions that have reported it. The
/// pool has one connection, which reports now; what other sessions do to these tables would be counted when they please.
pub(crate) async fn blocks_touched(pool: &PgPool, tables: &[&str]) -> i64 {
    // The second statement begins when the first one has ended, and with it what it asked for.
    for statement in ["SELECT pg_stat_force_next_flush()", "SELECT 1"] {
        sqlx::query(statement).execute(pool).await.expect(statement);
    }
    sqlx::query_scalar(
        "SELECT sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::bigint FROM pg_statio_all_tables
        WHERE schemaname = 'outbox' AND relname = ANY ($1)",
    )
    .bind(tables)
    .fetch_one(pool)
    .await
    .expect("statistics")
}
