//! Projectors share the lanes of a PostgreSQL log, and come and go while changes go on.

use outbox_core::log::{ConsumerName, EventLog};

use crate::{
    history::{Projecting, assert_complete, create_tables, from_log, while_writing},
    support::Shop,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projectors_come_leave_and_die_and_every_change_takes_effect_once() {
    let shop = Shop::open().await;
    create_tables(shop.database.pool()).await;
    let mut pools = Vec::new();
    for _ in 0..3 {
        pools.push(shop.database.connect(4).await);
    }
    let start = |n: usize| Projecting::start(&pools[n], from_log(&shop).shared().build());
    let running = |lanes: usize| {
        move |status: &outbox_projector::ProjectorStatus| {
            use outbox_projector::PartitionState::{Revoked, Running};
            let held: Vec<_> = status.partitions.values().filter(|p| p.state != Revoked).collect();
            held.len() == lanes && held.iter().all(|p| p.state == Running)
        }
    };
    let (mut last, conflicts) = while_writing(&shop, async {
        let mut first = start(0);
        first.until("all lanes", running(64)).await;
        let mut second = start(1);
        tokio::join!(first.until("half", running(32)), second.until("the other half", running(32)));
        first.until_applied(100).await;
        second.until_applied(100).await;
        let mut third = start(2);
        tokio::join!(first.until("a third", running(22)), second.until("another third", running(22)));
        third.until("the last third", running(20)).await;
        third.until_applied(100).await;
        let mut conflicts = first.conflicts() + second.conflicts();
        first.kill().await;
        second.until("those of the dead", running(32)).await;
        third.until("those of the dead", running(32)).await;
        second.stop().await;
        third.until("all lanes", running(64)).await;
        conflicts += third.conflicts();
        (third, conflicts)
    })
    .await;
    last.until_nothing_is_left().await;
    let written = assert_complete(shop.database.pool()).await;
    last.stop().await;
    let history = ConsumerName::parse("history").expect("name");
    let progress = shop.log.progress(&history).await.expect("progress");
    assert_eq!(progress.tracks.len(), 1, "after a clean stop at the end all lanes stand there: {progress:?}");
    // A lane that changes hands in the middle of a step can meet the old owner's step.
    assert!(conflicts <= 64, "{conflicts} conflicts");
    println!("{written} changes, 3 projectors, 4 hand-overs: each once, in order; {conflicts} conflicts");
    shop.database.drop_database().await;
}
