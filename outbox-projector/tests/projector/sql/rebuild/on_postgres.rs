//! What other sessions of a PostgreSQL see of a rebuild.

use std::{pin::Pin, task::Poll};

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
    within("an answer", scene.generations.claim(rebuild, Duration::from_secs(15))).await.expect("renewed");
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

/// Drops the future when it was woken so often. Whether it was done before.
async fn is_done_within(wakes: usize, mut future: impl Future + Unpin) -> bool {
    let mut polls = 0;
    std::future::poll_fn(|context| {
        let is_done = Pin::new(&mut future).poll(context).is_ready();
        polls += 1;
        if is_done || polls > wakes { Poll::Ready(is_done) } else { Poll::Pending }
    })
    .await
}
