//! A relay that is asked to stop in the middle of its work.

use std::time::Duration;

use crate::{
    program::STOP_WITHIN,
    relay_process::RelayProcess,
    shop::{Kind, Shop},
    topic::Verdict,
};

/// The last checkpoint and leaving may take a second more than the limit, and ending the process a moment.
const DEADLINE: Duration = STOP_WITHIN.saturating_add(Duration::from_secs(2));

/// Three in a row are stopped by SIGTERM under a steady load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_asked_to_stop_leaves_nothing_to_repeat() {
    let shop = Shop::open(Kind::Postgres).await;
    let writing = shop.write().await;
    let (mut fenced, mut slowest) = (0, Duration::ZERO);
    for _ in 0..3 {
        let mut relay = RelayProcess::start(&shop);
        relay.until("it is at work", |seen| seen.published >= 100).await;
        fenced += relay.seen().fenced;
        let took = relay.stops().await;
        assert!(took <= DEADLINE, "stopping took {took:?}");
        slowest = slowest.max(took);
    }
    writing.stop().await;
    let last = RelayProcess::start(&shop);
    let changes = shop.store.changes().await;
    let events = changes.values().sum::<i64>() as usize;
    let reading = shop.topic.read(events).await;
    fenced += last.seen().fenced;
    last.stops().await;

    let verdict = Verdict::on(&reading.rest().await, &changes);
    println!("{events} events, stopped within {slowest:?}: {verdict:?}");
    assert_eq!((verdict.lost, verdict.inverted), (0, 0));
    // A lease that ran out is another matter: a crash, as far as others can see.
    assert!(verdict.repeated.is_empty() || fenced > 0, "published twice: {:?}", verdict.repeated);
    shop.close().await;
}
