//! A projection removes its old claims by itself.

use std::time::Duration;

use outbox_core::testing::Sequencer;
use outbox_projector::{
    inbox::InboxProjection,
    sql::{Handler, ProjectionName},
};

use super::{Bed, Database, ReadModel, apply, on_every_database};
use crate::{sql::model::received, support::within};

on_every_database!(claims_that_are_old_enough_go_and_then_a_duplicate_counts);

async fn claims_that_are_old_enough_go_and_then_a_duplicate_counts<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..3).map(|n| received(&log, "a", n)).collect();
    let projection = |keep_for| {
        let name = ProjectionName::parse("effects").expect("name");
        InboxProjection::builder(database.pool.clone(), name, ReadModel::default()).keep_for(keep_for).build()
    };
    let days = |days: u64| Duration::from_hours(24 * days);
    let first = projection(days(7));
    apply(&first, &events[..2]).await.expect("apply");
    DB::age(&database.pool, events[0].event.id, 24 * 8).await;
    DB::age(&database.pool, events[1].event.id, 24 * 6).await;

    // More than one statement removes.
    DB::add_old(&database.pool, 2_500).await;

    let restarted = projection(days(7));
    apply(&restarted, &events[2..]).await.expect("apply");
    // The removal is nobody's concern, so nobody is told of it.
    within("all old claims are removed", async {
        while database.count("projector_inbox").await > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let again = apply(&restarted, &events).await.expect("apply");
    assert_eq!((again.applied, again.duplicates), (1, 2), "the forgotten one has its effect again");
    assert_eq!(database.model().await.list("a"), [0, 1, 2, 0]);
}
