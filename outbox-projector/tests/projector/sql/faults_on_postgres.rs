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

/// Both see no watermark. The one that ends second must not write its older number over the newer one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_partitions_with_the_first_event_of_one_key_do_not_overwrite() {
    let database = fresh::<Postgres>().await;
    let log = Sequencer::default();
    let (older, newer) = (received(&log, "a", 1), received(&log, "a", 2));
    let handler = ReadModel::with(1, Trouble::StallBeforeWriting);
    let slow = database.projection(handler.clone());
    let first = tokio::spawn({
        let older = older.clone();
        async move { (apply(&slow, "one", "1", &[older]).await, slow) }
    });
    within("the first has read the watermarks", handler.script.stalled.notified()).await;
    let fast = database.projection(ReadModel::default());
    assert_eq!(apply(&fast, "two", "1", &[newer]).await.expect("apply").applied, 1);
    handler.script.go_on.notify_one();
    let (outcome, slow) = within("the first ends", first).await.expect("no panic");
    assert_eq!(outcome.expect_err("the key was not new any more").kind(), ProjectionErrorKind::Conflict);
    assert_eq!(apply(&slow, "one", "1", &[older]).await.expect("a second try").duplicates, 1);
    assert_eq!(database.model().await.list("a"), [2]);
    database.tear_down().await;
}
