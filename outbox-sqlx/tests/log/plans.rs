//! The plans of the reading statements: always the two indexes, whatever the planner believes about the table.
//!
//! The statements are taken from the session that the log prepared them in, and explained there.

use outbox_core::{
    event::LaneSet,
    log::{ConsumerName, EventLog as _, StartAt, Track},
};
use outbox_sqlx::PostgresLog;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, PgPool, postgres::PgPoolOptions};
use test_services::{OwnPostgres, PostgresVersion};

use crate::support::{Follower, read};

const ROWS: i64 = 100_000;
const ROWS_OF_A_TRANSACTION: i64 = 50;

/// What [`read`](outbox_core::log::EventLog::read) sets for its transaction, except for the choice of generic or custom
/// plans, which these tests make.
const SETTINGS: &str = "SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off; \
    SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off";

/// A server of its own: the transactions of others would be stragglers too.
struct Bed {
    pool: PgPool,
    log: PostgresLog,
    /// Kept so that it runs.
    _server: OwnPostgres,
}

impl Bed {
    /// 100,000 events that the planner does not know of: it saw the table empty.
    async fn create(version: PostgresVersion) -> Self {
        let server = OwnPostgres::create(version).await;
        // One connection, in which everything is prepared and explained.
        let pool = PgPoolOptions::new().max_connections(1).connect(&server.url()).await.expect("connect");
        let log = PostgresLog::builder(pool.clone()).migrate().await.expect("migrate");
        pool.execute("ALTER TABLE outbox.outbox_event SET (autovacuum_enabled = off)").await.expect("no autovacuum");
        pool.execute("VACUUM ANALYZE outbox.outbox_event").await.expect("analyse");
        let bed = Self { pool, log, _server: server };
        bed.write(ROWS).await;
        bed
    }

    async fn write(&self, rows: i64) {
        let sql = format!(
            "DO $$ BEGIN FOR n IN 1..{} LOOP
                INSERT INTO outbox.outbox_event
                    (lane, id, aggregate_type, aggregate_id, event_type, content_type, payload, created_at)
                SELECT k % 64, gen_random_uuid(), 'Agg', k::text, 'AggChanged', 'application/json',
                    convert_to(repeat('x', 240), 'UTF8'), now() FROM generate_series(1, {ROWS_OF_A_TRANSACTION}) AS k;
                COMMIT;
            END LOOP; END $$",
            rows / ROWS_OF_A_TRANSACTION
        );
        self.pool.execute(AssertSqlSafe(sql)).await.expect("write");
    }

    /// Makes the log prepare all its reading statements.
    async fn prepare_all(&self) {
        let consumer = ConsumerName::parse("planned").expect("name");
        self.log.register(&consumer, StartAt::Time(chrono::Utc::now())).await.expect("register");
        Follower::from(self.log.clone(), StartAt::Beginning).await.page(10).await;
        let mut reader = Follower::from(self.log.clone(), StartAt::End).await;
        // Many ids without a row, all of them open while a window ends.
        let mut open = self.other_session().await;
        let subtransactions = "BEGIN; DO $$ BEGIN FOR n IN 1..400 LOOP
                BEGIN CREATE TEMPORARY TABLE sub (); DROP TABLE sub; EXCEPTION WHEN division_by_zero THEN NULL; END;
            END LOOP; END $$";
        open.execute(subtransactions).await.expect("subtransactions");
        self.pool.execute("SELECT nextval('outbox.outbox_event_position_seq')").await.expect("something new");
        reader.catch_up().await;
        self.pool.execute("SELECT nextval('outbox.outbox_event_position_seq')").await.expect("something new");
        open.execute("COMMIT").await.expect("commit");
        reader.catch_up().await;
    }

    async fn other_session(&self) -> PgConnection {
        let options = self.pool.connect_options();
        sqlx::ConnectOptions::connect(&*options).await.expect("connect")
    }

    /// The name of the prepared statement with this text in it.
    async fn statement(&self, text: &str) -> String {
        let named: Vec<String> =
            sqlx::query_scalar("SELECT name FROM pg_prepared_statements WHERE position($1 IN statement) > 0")
                .bind(text)
                .persistent(false)
                .fetch_all(&self.pool)
                .await
                .expect("statements");
        assert_eq!(named.len(), 1, "{text}: {named:?}");
        named[0].clone()
    }

    /// Explains a statement with a kind of plan, and asserts that it reads events through the indexes only.
    async fn explain(&self, what: &str, settings: &str, plans: &str) -> Cost {
        let mut tx = self.pool.begin().await.expect("begin");
        for sql in [settings.to_owned(), format!("SET LOCAL plan_cache_mode = {plans}")] {
            tx.execute(AssertSqlSafe(sql)).await.expect("settings");
        }
        let explain = AssertSqlSafe(format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {what}"));
        let plan: Value = sqlx::query_scalar(explain).persistent(false).fetch_one(&mut *tx).await.expect("explain");
        tx.rollback().await.expect("rollback");
        let root = &plan[0]["Plan"];
        let cost = Cost { buffers: buffers(root), rows: root["Actual Rows"].as_f64().expect("rows") as i64 };
        visit(root, &mut |node| {
            if node["Relation Name"] == "outbox_event" {
                let good = ["outbox_event_pkey", "outbox_event_xid_position"].map(Value::from);
                assert!(good.contains(&node["Index Name"]), "{plans}: {what}\n{plan:#}");
            }
        });
        cost
    }
}

#[derive(Debug)]
struct Cost {
    buffers: i64,
    rows: i64,
}

fn buffers(node: &Value) -> i64 {
    ["Shared Hit Blocks", "Shared Read Blocks"].iter().filter_map(|key| node[*key].as_i64()).sum()
}

fn visit(node: &Value, see: &mut impl FnMut(&Value)) {
    see(node);
    for child in node["Plans"].as_array().into_iter().flatten() {
        visit(child, see);
    }
}

const PLANS: [&str; 2] = ["force_generic_plan", "force_custom_plan"];

async fn plans_do_not_flip(version: PostgresVersion) {
    let bed = Bed::create(version).await;
    bed.prepare_all().await;
    for knowledge in ["the table was analysed empty", "analysed", "analysed, and much was written since"] {
        match knowledge {
            "analysed" => {
                bed.pool.execute("VACUUM ANALYZE outbox.outbox_event").await.expect("analyse");
            }
            "analysed, and much was written since" => bed.write(ROWS / 2).await,
            _ => {}
        }
        for plans in PLANS {
            a_page_costs_what_a_keyset_page_costs(&bed, knowledge, plans).await;
            stragglers_cost_what_they_bring(&bed, knowledge, plans).await;
            an_idle_look_costs_a_few_buffers(&bed, knowledge, plans).await;
            times_and_unlisted_ids_use_an_index(&bed, plans).await;
        }
    }
}

async fn head(bed: &Bed) -> i64 {
    let newest = "SELECT max(position) FROM outbox.outbox_event";
    sqlx::query_scalar(newest).persistent(false).fetch_one(&bed.pool).await.expect("head")
}

async fn a_page_costs_what_a_keyset_page_costs(bed: &Bed, knowledge: &str, plans: &str) {
    let page = bed.statement("SELECT t.n, false AS late").await;
    let backlog = bed.statement("WHERE position > $2 AND position <= $3 ORDER BY position LIMIT $4").await;
    let head = head(bed).await;
    for start in [0, head / 2, head - 2_000] {
        let raw = format!("SELECT * FROM outbox.outbox_event WHERE position > {start} ORDER BY position LIMIT 1000");
        let raw = bed.explain(&raw, SETTINGS, plans).await;
        let alone = format!("EXECUTE {backlog}(-1, {start}, {head}, 1000)");
        let cost = bed.explain(&alone, SETTINGS, plans).await;
        assert_eq!(cost.rows, 1_000);
        assert!(cost.buffers <= raw.buffers + 10, "{knowledge}, {plans}, from {start}: {cost:?}, raw {raw:?}");

        let whole = format!(
            "EXECUTE {page}('{{0}}', '{{-1}}', '{{{start}}}', '{{{head}}}', 1000, '{{}}', '{{}}', '{{}}', '{{}}', '{{}}',
                '{{}}', '0/0')"
        );
        let cost = bed.explain(&whole, SETTINGS, plans).await;
        assert_eq!(cost.rows, 1_001, "the events and the row about the WAL");
        assert!(cost.buffers <= raw.buffers + 10, "{knowledge}, {plans}, from {start}: {cost:?}, raw {raw:?}");

        let three = format!(
            "EXECUTE {page}('{{0,1,2}}', '{{1,2,4}}', '{{{start},{start},{start}}}', '{{{head},{head},{head}}}', 1000,
                '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '0/0')"
        );
        let cost = bed.explain(&three, SETTINGS, plans).await;
        assert_eq!(cost.rows, 3_001);
        assert!(cost.buffers <= 3 * raw.buffers + 20, "{knowledge}, {plans}, from {start}: {cost:?}, raw {raw:?}");
    }
}

/// 500 new rows and 32 transactions that were late: half of them wrote events, half did not.
async fn stragglers_cost_what_they_bring(bed: &Bed, knowledge: &str, plans: &str) {
    let page = bed.statement("SELECT t.n, false AS late").await;
    let (head, start) = (head(bed).await, head(bed).await - 500);
    let xids: Vec<String> = sqlx::query_scalar(
        "SELECT xid::text FROM (SELECT DISTINCT xid FROM outbox.outbox_event WHERE position < 20000) AS e
        ORDER BY xid LIMIT 16",
    )
    .persistent(false)
    .fetch_all(&bed.pool)
    .await
    .expect("xids");
    let without = (0..16).map(|n| (4_000_000_000_u64 + n).to_string());
    let xids: Vec<String> = xids.into_iter().chain(without).collect();
    let what = format!(
        "EXECUTE {page}('{{0}}', '{{-1}}', '{{{start}}}', '{{{head}}}', 1000, '{{0}}', '{{-1}}', '{{0}}', '{{1}}', '{{32}}',
            '{{{}}}', '0/0')",
        xids.join(",")
    );
    let cost = bed.explain(&what, SETTINGS, plans).await;
    assert_eq!(cost.rows, 500 + 16 * ROWS_OF_A_TRANSACTION + 1);
    // About twenty rows lie on a page of the table, and each straggler costs a descent and its own pages.
    assert!(cost.buffers <= 60 + 32 * 12, "{knowledge}, {plans}: {cost:?}");
}

/// Outside any transaction, so without the settings of one.
async fn an_idle_look_costs_a_few_buffers(bed: &Bed, knowledge: &str, plans: &str) {
    let state = bed.statement("WITH looked AS").await;
    let cost = bed.explain(&format!("EXECUTE {state}('{{}}')"), "SELECT", plans).await;
    assert!(cost.buffers <= 9, "{knowledge}, {plans}: {cost:?}");
    let xids: Vec<String> = (0..32).map(|n| (4_000_000_000_u64 + n).to_string()).collect();
    let awaited = bed.explain(&format!("EXECUTE {state}('{{{}}}')", xids.join(",")), "SELECT", plans).await;
    assert!(awaited.buffers <= 9, "none of them has ended; {knowledge}, {plans}: {awaited:?}");
    let ended: Vec<String> = (3..35).map(|n: u64| n.to_string()).collect();
    let ended = bed.explain(&format!("EXECUTE {state}('{{{}}}')", ended.join(",")), "SELECT", plans).await;
    assert!(ended.buffers <= 9 + 32 * 4, "none of them wrote events; {knowledge}, {plans}: {ended:?}");
}

async fn times_and_unlisted_ids_use_an_index(bed: &Bed, plans: &str) {
    let unlisted = bed.statement("WITH RECURSIVE found").await;
    let (first, last): (String, String) = sqlx::query_as(
        "SELECT min(xid)::text, max(xid)::text FROM (SELECT xid FROM outbox.outbox_event LIMIT 50000) AS e",
    )
    .persistent(false)
    .fetch_one(&bed.pool)
    .await
    .expect("xids");
    let cost = bed.explain(&format!("EXECUTE {unlisted}('{first}', '{last}')"), SETTINGS, plans).await;
    assert!(cost.buffers <= 8 * cost.rows + 20, "{plans}: {cost:?}");

    let times = bed.statement("FILTER (WHERE created_at").await;
    let settings = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off";
    let raw = "SELECT * FROM outbox.outbox_event WHERE position > 5000 ORDER BY position LIMIT 20000";
    let raw = bed.explain(raw, SETTINGS, plans).await;
    let what = format!("EXECUTE {times}(5000, {}, '2020-01-01', 20000)", head(bed).await);
    let cost = bed.explain(&what, settings, plans).await;
    assert!(cost.buffers <= raw.buffers + 10, "{plans}: {cost:?}, raw {raw:?}");
}

/// What the statistics of the table count while the log itself reads, with its own settings.
async fn a_page_as_it_is_read_costs_what_a_keyset_page_costs(version: PostgresVersion) {
    let bed = Bed::create(version).await;
    let reader = Follower::from(bed.log.clone(), StartAt::Beginning).await;
    let mut track = reader.track();
    let mut costs = Vec::new();
    for _ in 0..10 {
        let before = blocks(&bed.pool).await;
        let page = read(&bed.log, &track, 1_000).await;
        costs.push(blocks(&bed.pool).await - before);
        assert_eq!(page.events.len(), 1_000);
        track.cursor = page.next;
    }
    let before = blocks(&bed.pool).await;
    let raw = "SELECT * FROM outbox.outbox_event WHERE position > 50000 ORDER BY position LIMIT 1000";
    bed.pool.execute(raw).await.expect("raw");
    let raw = blocks(&bed.pool).await - before;
    assert!(raw > 20, "nothing was measured: {raw}");
    assert!(costs.iter().all(|cost| *cost > 20 && *cost <= raw + 10), "pages {costs:?}, raw {raw}");

    // Three tracks that wait at the end look once for all.
    let end = Follower::from(bed.log.clone(), StartAt::End).await.track();
    let tracks: Vec<_> = [1, 2, 4].map(|mask| Track { lanes: LaneSet::from_mask(mask), ..end.clone() }).into();
    let before = blocks(&bed.pool).await;
    bed.log.read(&tracks, 1_000).await.expect("read");
    assert_eq!(blocks(&bed.pool).await - before, 0, "an idle look reads no event");
}

/// Blocks of the table and its indexes that were touched so far.
async fn blocks(pool: &PgPool) -> i64 {
    pool.execute("SELECT pg_stat_force_next_flush()").await.expect("flush");
    let sql = "SELECT (heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::bigint
        FROM pg_statio_all_tables WHERE relid = 'outbox.outbox_event'::regclass";
    sqlx::query_scalar(sql).persistent(false).fetch_one(pool).await.expect("statistics")
}

mod on {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn plans_do_not_flip_on_15() {
        plans_do_not_flip(PostgresVersion::V15).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn plans_do_not_flip_on_18() {
        plans_do_not_flip(PostgresVersion::V18).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_page_as_it_is_read_on_15() {
        a_page_as_it_is_read_costs_what_a_keyset_page_costs(PostgresVersion::V15).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_page_as_it_is_read_on_18() {
        a_page_as_it_is_read_costs_what_a_keyset_page_costs(PostgresVersion::V18).await;
    }
}
