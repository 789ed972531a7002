//! What can only be seen where transactions run side by side.

use std::time::Duration;

use outbox_projector::{
    inbox::{Claimed, PostgresInbox, TryClaimed},
    sql::{PostgresProjection, ProjectionName, SchemaName},
};
use sqlx::{PgPool, Postgres};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{Database, fresh, inbox};
use crate::support::within;

/// A claim on a task of its own, which commits and says what it was.
fn claim_elsewhere(database: &Database<Postgres>, id: Uuid) -> JoinHandle<Claimed> {
    let (inbox, pool) = (inbox(database, "mails"), database.pool.clone());
    tokio::spawn(async move {
        let mut tx = pool.begin().await.expect("begin");
        let claimed = inbox.claim(&mut tx, id).await.expect("claim");
        tx.commit().await.expect("commit");
        claimed
    })
}

/// The server signals nobody that a session has begun to wait, so it is asked again and again.
async fn until_somebody_waits(pool: &PgPool) {
    let sql =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
    within("a session waits for a lock", async {
        while !sqlx::query_scalar::<_, bool>(sql).fetch_one(pool).await.expect("a query") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_concurrent_claim_waits_for_the_end_of_the_first() {
    let database = fresh::<Postgres>().await;
    for commits in [true, false] {
        let (inbox, id) = (inbox(&database, "mails"), Uuid::now_v7());
        let mut tx = database.pool.begin().await.expect("begin");
        assert_eq!(inbox.claim(&mut tx, id).await.expect("claim"), Claimed::New);
        let second = claim_elsewhere(&database, id);
        until_somebody_waits(&database.pool).await;
        assert!(!second.is_finished());
        let expected = if commits {
            tx.commit().await.expect("commit");
            Claimed::Seen
        } else {
            tx.rollback().await.expect("rollback");
            Claimed::New
        };
        assert_eq!(within("the second's answer", second).await.expect("no panic"), expected);
    }
    database.tear_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trying_skips_at_once_what_somebody_is_at() {
    let database = fresh::<Postgres>().await;
    let inbox = inbox(&database, "mails");
    for tries_first in [true, false] {
        let id = Uuid::now_v7();
        let mut first = database.pool.begin().await.expect("begin");
        if tries_first {
            assert_eq!(inbox.try_claim(&mut first, id).await.expect("claim"), TryClaimed::New);
        } else {
            assert_eq!(inbox.claim(&mut first, id).await.expect("claim"), Claimed::New);
        }
        let mut second = database.pool.begin().await.expect("begin");
        let busy = within("no wait", inbox.try_claim(&mut second, id)).await.expect("claim");
        assert_eq!(busy, TryClaimed::Busy);
        let other = within("no wait", inbox.try_claim(&mut second, Uuid::now_v7())).await.expect("claim");
        assert_eq!(other, TryClaimed::New, "the transaction can be used further");
        first.rollback().await.expect("rollback");
        assert_eq!(inbox.try_claim(&mut second, id).await.expect("claim"), TryClaimed::New, "it is free again");
        second.commit().await.expect("commit");
    }
    database.tear_down().await;
}

/// What is known for good is not called busy because somebody else looks at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_seen_is_never_busy() {
    let database = fresh::<Postgres>().await;
    let (inbox, id) = (inbox(&database, "mails"), Uuid::now_v7());
    assert_eq!(claim_elsewhere(&database, id).await.expect("no panic"), Claimed::New);
    let mut first = database.pool.begin().await.expect("begin");
    assert_eq!(inbox.claim(&mut first, id).await.expect("claim"), Claimed::Seen);
    let mut second = database.pool.begin().await.expect("begin");
    assert_eq!(within("no wait", inbox.try_claim(&mut second, id)).await.expect("claim"), TryClaimed::Seen);
    drop((first, second));
    database.tear_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_schema_is_another_inbox() {
    let database = fresh::<Postgres>().await;
    let schema = SchemaName::parse("elsewhere").expect("schema");
    PostgresProjection::migrate(&database.pool, &schema).await.expect("migrate");
    let (here, id) = (inbox(&database, "mails"), Uuid::now_v7());
    let name = ProjectionName::parse("mails").expect("name");
    let there = PostgresInbox::new(database.pool.clone(), name).in_schema(&schema);
    let mut tx = database.pool.begin().await.expect("begin");
    assert_eq!(here.claim(&mut tx, id).await.expect("claim"), Claimed::New);
    let mut other = database.pool.begin().await.expect("begin");
    let claimed = within("no wait", there.try_claim(&mut other, id)).await.expect("claim");
    assert_eq!(claimed, TryClaimed::New);
    drop((tx, other));
    database.tear_down().await;
}

/// Its snapshot is older than the claim that it waited for: it cannot know, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn above_read_committed_a_wait_is_a_serialization_failure() {
    let database = fresh::<Postgres>().await;
    let (inbox, id) = (inbox(&database, "mails"), Uuid::now_v7());
    let mut first = database.pool.begin().await.expect("begin");
    assert_eq!(inbox.claim(&mut first, id).await.expect("claim"), Claimed::New);
    let second = tokio::spawn({
        let (inbox, pool) = (inbox.clone(), database.pool.clone());
        async move {
            let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("begin");
            inbox.claim(&mut tx, id).await
        }
    });
    until_somebody_waits(&database.pool).await;
    first.commit().await.expect("commit");
    let error = within("the second's answer", second).await.expect("no panic").expect_err("unknowable");
    assert_eq!(error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref(), Some("40001"));
    database.tear_down().await;
}
