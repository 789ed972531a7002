//! A generation goes live when all of its partitions are known to be near the end.

use std::{sync::Arc, time::Duration};

use outbox_core::source::SourceEvent;
use outbox_projector::rebuild::RebuildPhase;

use super::scene::{Running, Script, partition};

const AT_ONCE: Duration = Duration::ZERO;

/// So many partitions at their end.
fn script(partitions: usize, answer: Duration) -> Arc<Script> {
    let script = Arc::new(Script::default());
    (0..partitions).for_each(|n| script.set_lag(n, answer, 0));
    script
}

fn swaps(running: &Running) -> usize {
    running.script.calls("swap").len()
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_went_to_another_is_waited_for() {
    let mut running = Running::start(script(2, AT_ONCE));
    running.assign(0..2);
    running.until("it builds", |status| status.behind == Some(0)).await;
    running.say(SourceEvent::Revoked(vec![partition(1)]));
    running.at(60).await;
    assert_eq!((swaps(&running), running.status.borrow().behind), (0, Some(0)));
    let error = running.error().expect("it says what it waits for");
    assert!(error.contains("scripted/1"), "{error}");

    running.script.set_lag(1, AT_ONCE, 7);
    running.assign(1..2);
    running.at(120).await;
    assert_eq!((swaps(&running), running.error()), (0, None));
    running.script.set_lag(1, AT_ONCE, 0);
    running.end().await.0.expect("rebuilt");
}

/// One that is at its end does not go live alone when another comes a moment later.
#[tokio::test(start_paused = true)]
async fn partitions_may_come_one_by_one() {
    let running = Running::start(script(2, AT_ONCE));
    running.script.set_lag(1, AT_ONCE, 7);
    running.assign(0..1);
    running.at(2).await;
    running.assign(1..2);
    running.at(60).await;
    assert_eq!((swaps(&running), running.status.borrow().behind), (0, Some(7)));
    running.script.set_lag(1, AT_ONCE, 0);
    running.end().await.0.expect("rebuilt");
}

/// Where a round takes long, what was said of the first partition is old when the last one is asked: the next round shows
/// that it still is so.
#[tokio::test(start_paused = true)]
async fn many_partitions_of_a_slow_source_are_known_after_a_round() {
    const PARTITIONS: usize = 40;
    const ANSWER: Duration = Duration::from_millis(500);
    /// The answer, and the pause behind it.
    const ROUND: u64 = 40 * 5;
    let running = Running::start(script(PARTITIONS, ANSWER));
    running.script.set_lag(PARTITIONS / 2, ANSWER, 7);
    running.assign(0..PARTITIONS);
    running.at(ROUND - 1).await;
    assert_eq!((swaps(&running), running.status.borrow().behind), (0, Some(7)));
    let error = running.error().expect("it says what it waits for");
    assert!(error.contains("still to come"), "{error}");
    running.at(ROUND + 10).await;
    assert_eq!((swaps(&running), running.error()), (0, None), "all is known, and one is behind");
    running.script.set_lag(PARTITIONS / 2, ANSWER, 0);
    let (ended, after) = running.end().await;
    ended.expect("rebuilt");
    assert!(after <= Duration::from_secs(2 * ROUND), "{after:?}");
}

/// Though all were at their ends when they were asked first.
#[tokio::test(start_paused = true)]
async fn old_answers_do_not_count() {
    const PARTITIONS: usize = 5;
    let running = Running::start(script(PARTITIONS, Duration::from_millis(900)));
    running.assign(0..PARTITIONS);
    running.at(42).await;
    assert_eq!((swaps(&running), running.status.borrow().behind), (0, Some(0)));
    let error = running.error().expect("it says what it waits for");
    assert!(error.contains("still to come"), "{error}");
    // As the second round finds it.
    running.script.set_lag(0, AT_ONCE, 7);
    running.at(85).await;
    assert_eq!((swaps(&running), running.status.borrow().behind), (0, Some(7)));
    (0..PARTITIONS).for_each(|n| running.script.set_lag(n, AT_ONCE, 0));
    running.end().await.0.expect("rebuilt");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_say_what_is_to_come_is_shown() {
    let running = Running::start(Arc::new(Script::default()));
    running.at(10).await;
    assert_eq!(running.error(), None);
    running.at(20).await;
    let error = running.error().expect("nothing is read");
    assert!(error.contains("no partition"), "{error}");
    running.assign(0..1);
    running.at(30).await;
    assert_eq!(running.error(), None);
    running.at(60).await;
    let error = running.error().expect("it cannot end");
    assert!(error.contains("scripted/0"), "{error}");
    assert_eq!(running.status.borrow().phase, RebuildPhase::Building);
    running.script.set_lag(0, AT_ONCE, 0);
    running.end().await.0.expect("rebuilt");
}
