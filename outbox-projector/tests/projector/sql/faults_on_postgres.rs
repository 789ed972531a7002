//! What can only go wrong where transactions run side by side.

use outbox_core::{projection::ProjectionErrorKind, testing::Sequencer};
use outbox_projector::sql::{ProjectionName, SqlProjection};
use sqlx::Postgres;

use super::{ReadModel, apply::apply, faults::assert_nothing, fresh, handler::Trouble, model::received};
use crate::support::within;

/// PostgreSQL answers COMMIT with success after a failed statement, though it rolled back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_the_handler_hides_is_not_taken_for_success() {
    let database = fresh::<Postgres>().await;
    let log = Sequencer::default();
    let event = received(&log, "a", 1);
    for versioned in [false, true] {
        let name = ProjectionName::parse("model").expect("name");
        let handler = ReadModel::with(1, Trouble::HideError);
        let builder = SqlProjection::builder(database.pool.clone(), name, handler);
        let projection = if versioned { builder.versioned().build() } else { builder.build() };
        let hidden = apply(&projection, "p", "1", std::slice::from_ref(&event)).await;
        assert_eq!(hidden.expect_err("nothing was committed").kind(), ProjectionErrorKind::Failed);
        assert_nothing(&database).await;
    }
    database.tear_down().await;
}

/// There is no watermark to lock yet. Were the older one not waited for, the newer one would come before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_event_of_a_key_holds_back_another_partition() {
    let database = fresh::<Postgres>().await;
    let log = Sequencer::default();
    let (older, newer) = (received(&log, "a", 1), received(&log, "a", 2));
    let handler = ReadModel::with(1, Trouble::StallBeforeWriting);
    let slow = database.projection(handler.clone());
    let first = tokio::spawn(async move { apply(&slow, "one", "1", &[older]).await });
    within("the first is in its handler", handler.script.stalled.notified()).await;
    let fast = database.projection(ReadModel::default());
    let second = tokio::spawn(async move { apply(&fast, "two", "1", &[newer]).await });
    within("the second waits", waits_for_a_lock(&database.pool)).await;
    handler.script.go_on.notify_one();
    for step in [first, second] {
        let applied = within("both end", step).await.expect("no panic").expect("apply");
        assert_eq!(applied.applied, 1);
    }
    assert_eq!(database.model().await.list("a"), [1, 2]);
    database.tear_down().await;
}

async fn waits_for_a_lock(pool: &sqlx::PgPool) {
    let sql =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
    while !sqlx::query_scalar::<_, bool>(sql).fetch_one(pool).await.expect("a query") {
        tokio::task::yield_now().await;
    }
}
