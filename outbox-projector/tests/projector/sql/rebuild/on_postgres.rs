//! What other sessions of a PostgreSQL see of a rebuild.

use outbox_core::log::{EventLog as _, StartAt};
use sqlx::{PgPool, Postgres};

use super::{super::database::fresh, *};

/// Nothing tells that a session waits, or left something behind: it is asked again and again.
async fn until_sessions(pool: &PgPool, what: &str, count: i64, such: &'static str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND {such}"
    );
    within(what, async {
        loop {
            let found: (i64,) = sqlx::query_as(AssertSqlSafe(sql.clone())).fetch_one(pool).await.expect("a query");
            if found.0 == count {
                return;
            }
        }
    })
    .await;
}

/// A drop that is held up by a query does not cost a rebuild its claim, and others hear at once that they are too early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_waits_for_no_drop() {
    let database = fresh::<Postgres>().await;
    let scene = Scene::new(&database);
    let (second, rebuild) = scene.two_generations().await;
    scene.generations.swap(second, rebuild).await.expect("swap");
    let mut query = database.pool.begin().await.expect("begin");
    sqlx::query("SELECT * FROM sums_1").fetch_all(&mut *query).await.expect("a query");
    let generations = scene.generations.clone();
    let dropping = tokio::spawn(async move { generations.discard(Generation::FIRST, rebuild).await });
    until_sessions(&database.pool, "it waits", 1, "wait_event_type = 'Lock'").await;

    let other = within("an answer", scene.generations.claim(Uuid::now_v7(), Duration::from_secs(15))).await;
    assert_eq!(other.expect_err("refused").kind(), RebuildErrorKind::Busy);
    within("an answer", scene.generations.renew(rebuild, Duration::from_secs(15))).await.expect("renewed");
    let live = within("an answer", scene.generations.prepare(second, None)).await;
    assert_eq!(live.expect("whoever goes over to it does not wait"), Stage::Live);
    assert!(!dropping.is_finished());
    query.rollback().await.expect("rollback");
    within("the drop", dropping).await.expect("no panic").expect("dropped");
    database.tear_down().await;
}

/// Wherever a call is dropped, as at a shutdown, its connection is not left in a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_dropped_leaves_no_transaction() {
    let database = fresh::<Postgres>().await;
    let generations = Scene::new(&database).generations;
    generations.prepare(Generation::FIRST, None).await.expect("prepare");
    // Whoever used the pool would end what is left there.
    let options = database.pool.connect_options().as_ref().clone();
    let others = PgPool::connect_with(options).await.expect("a connection");
    let mut wakes = 0;
    while !is_done_within(wakes, generations.state()).await {
        until_sessions(&others, "all are given back", 0, "state <> 'idle'").await;
        wakes += 1;
    }
    assert!(wakes > 0, "it was never dropped half-way");
    others.close().await;
    let one = within("a connection", generations.state()).await.expect("state");
    assert_eq!(one.live, Generation::FIRST);
    database.tear_down().await;
}

/// Read as SQL of the model, with a swap that waits for this lock first.
struct Held;

const LOCK: &str = "SELECT pg_advisory_xact_lock(1, 1)";

impl SqlReadModel<Postgres> for Held {
    fn create(&self, generation: Generation) -> String {
        SqlReadModel::<Postgres>::create(&Sums, generation)
    }

    fn swap(&self, to: Generation) -> String {
        format!("{LOCK}; {}", SqlReadModel::<Postgres>::swap(&Sums, to))
    }

    fn discard(&self, generation: Generation) -> String {
        SqlReadModel::<Postgres>::discard(&Sums, generation)
    }

    fn handler(&self, generation: Generation, stage: Stage) -> Box<dyn Handler<Postgres>> {
        Sums.handler(generation, stage)
    }
}

/// A process is frozen in the middle of its swap, until another rebuild has the claim and waits for it: then that finds
/// the generation live which it was to build, or to throw away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_that_ends_under_another_claim_is_a_swap() {
    for is_afresh in [false, true] {
        let database = fresh::<Postgres>().await;
        let scene = Scene::new(&database);
        scene.write(0..100).await;
        let (second, frozen) = scene.two_generations().await;
        let consumer = ConsumerName::parse("sums.g2").expect("name");
        scene.log.register(&consumer, StartAt::Beginning).await.expect("register");
        let projection = scene.generations.projection(second, Stage::Building);
        let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
        let events = [received(&Sequencer::default(), "key", 1)];
        projection.apply(Step::new(&partition, None, &to, &events)).await.expect("apply");

        let mut holding = database.pool.begin().await.expect("begin");
        sqlx::query(LOCK).execute(&mut *holding).await.expect("held");
        let name = ProjectionName::parse("sums").expect("name");
        let held = SqlGenerations::new(database.pool.clone(), name, Held).expect("a short name");
        let swapping = tokio::spawn(async move { held.swap(second, frozen).await });
        until_sessions(&database.pool, "it swaps", 1, "wait_event_type = 'Lock'").await;
        scene.generations.renew(frozen, Duration::ZERO).await.expect("once more, up to now");

        let rebuild = if is_afresh { scene.rebuild().afresh() } else { scene.rebuild() };
        let rebuilding = tokio::spawn(rebuild.run(std::future::pending()));
        until_sessions(&database.pool, "it waits for the swap", 2, "wait_event_type = 'Lock'").await;
        holding.rollback().await.expect("rollback");
        within("the swap", swapping).await.expect("no panic").expect("swapped");
        let live = within("the rebuild", rebuilding).await.expect("no panic").expect("rebuilt");
        assert_eq!(live, second, "afresh: {is_afresh}");
        assert_eq!(Postgres::seen(&scene.pool).await, (1, 1, 1), "as it was swapped; afresh: {is_afresh}");
        assert!(scene.generations.before(second).await.expect("before").is_empty(), "the first one is dropped");
        scene.log.drop_consumer(&consumer).await.expect("it was still known");
        database.tear_down().await;
    }
}
