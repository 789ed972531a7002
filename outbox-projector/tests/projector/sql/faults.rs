//! A step that does not get to its end leaves nothing.

use outbox_core::{projection::ProjectionErrorKind, testing::Sequencer};
use outbox_projector::sql::Handler;

use super::{
    Database, ReadModel,
    apply::apply,
    database::TestDatabase,
    handler::Trouble,
    model::{Model, foreign, received},
    on_every_database,
};
use crate::support::within;

on_every_database!(
    a_handler_that_fails_after_writing_leaves_nothing,
    a_step_dropped_after_writing_leaves_nothing,
    a_foreign_event_of_a_failed_step_is_not_taken_for_seen,
);

pub(super) async fn assert_nothing<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    assert_eq!(database.model().await, Model::default());
    for table in ["projector_position", "projector_watermark", "projector_seen", "projector_dead_letter"] {
        assert_eq!(database.count(table).await, 0, "{table}");
    }
}

async fn a_handler_that_fails_after_writing_leaves_nothing<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..3).map(|n| received(&log, "a", n)).collect();
    for (trouble, kind) in
        [(Trouble::Fail, ProjectionErrorKind::Failed), (Trouble::Reject, ProjectionErrorKind::Rejected)]
    {
        let projection = database.projection(ReadModel::with(1, trouble));
        let error = apply(&projection, "p", "1", &events).await.expect_err("the handler fails");
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(&events[1].event.id.to_string()), "which event: {error}");
        assert_nothing(database).await;
    }
    let projection = database.projection(ReadModel::default());
    assert_eq!(apply(&projection, "p", "1", &events).await.expect("apply").applied, 3);
    assert_eq!(database.model().await, Model::of(&events));
}

async fn a_step_dropped_after_writing_leaves_nothing<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..3).map(|n| received(&log, "a", n)).collect();
    let handler = ReadModel::with(1, Trouble::Stall);
    let projection = database.projection(handler.clone());
    within("the handler stalls", async {
        tokio::select! {
            applied = apply(&projection, "p", "1", &events) => panic!("not stalled: {applied:?}"),
            () = handler.script.stalled.notified() => {}
        }
    })
    .await;
    assert_nothing(database).await;
    assert_eq!(apply(&projection, "p", "1", &events).await.expect("apply").applied, 3);
    assert_eq!(database.model().await, Model::of(&events));
}

async fn a_foreign_event_of_a_failed_step_is_not_taken_for_seen<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let projection = database.projection(ReadModel::with(7, Trouble::FailOnce));
    let event = foreign("a", 7);
    apply(&projection, "p", "1", std::slice::from_ref(&event)).await.expect_err("the handler fails");
    assert_nothing(database).await;
    assert_eq!(apply(&projection, "p", "1", &[event]).await.expect("apply").applied, 1);
}
