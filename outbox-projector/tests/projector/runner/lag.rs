//! What the runner knows of what is still to come, and that asking holds nothing up.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use outbox_core::{memory::MemoryProjection, source::SourceEvent};
use outbox_projector::{PartitionState, Projector, ProjectorStatus};
use tokio::time::{Instant, sleep};

use super::scripted::{Lag, Store, partition, scripted};
use crate::support::{Running, within};

const PARTITIONS: usize = 50;
const EVERY: Duration = Duration::from_secs(5);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

fn store() -> Store {
    Store::of(MemoryProjection::new("model"))
}

fn is_running(status: &ProjectorStatus) -> bool {
    !status.partitions.is_empty() && status.partitions.values().all(|p| p.state == PartitionState::Running)
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_says_its_lag_holds_nothing_up() {
    let (script, source) = scripted(PARTITIONS, Lag::NeverSaid);
    let mut running = Running::start(Projector::builder(source, Arc::new(store())).lag_every(EVERY));
    let status = running.until("all run", is_running).await;
    assert_eq!((status.lag(), status.age()), (None, None));
    let began = Instant::now();
    let mut slow = 0;
    for n in 0..1_000 {
        let before = Instant::now();
        script.deliver(n % PARTITIONS, Utc::now());
        running.until_applied(n + 1).await;
        assert!(before.elapsed() <= PATIENCE, "{:?}", before.elapsed());
        slow += usize::from(before.elapsed() > Duration::ZERO);
        // On a clock that is paused: the test does not wait.
        sleep(Duration::from_millis(100)).await;
    }
    let (asked, most) = (script.asked().len(), began.elapsed().div_duration_f64(PATIENCE * 10).ceil() as usize);
    assert!((2..=most).contains(&asked), "{asked} times in {:?}", began.elapsed());
    assert!(slow <= 2 * most, "{slow} events met a question");
    assert_eq!(running.status.borrow().lag(), None);

    script.is_asked.notified().await;
    let before = Instant::now();
    script.say(SourceEvent::Revoked(vec![partition(0)]));
    running.until("revoked", |s| s.partitions[&partition(0)].state == PartitionState::Revoked).await;
    assert!(before.elapsed() <= PATIENCE, "{:?}", before.elapsed());

    // A permit may be left of the time before.
    let asked = script.asked().len();
    while script.asked().len() == asked {
        script.is_asked.notified().await;
    }
    let before = Instant::now();
    running.stop().await.expect("run");
    assert_eq!(before.elapsed(), Duration::ZERO, "it does not wait for the answer");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_gave_nothing_is_left_to_its_wait() {
    let (script, source) = scripted(0, Lag::Is(0));
    let running = Running::start(Projector::builder(source, Arc::new(store())).lag_every(EVERY));
    // On a clock that is paused: the test does not wait.
    sleep(EVERY * 100).await;
    assert_eq!(script.waits(), 2, "for the empty assignment, and for what comes behind it");
    running.stop().await.expect("run");
}

#[tokio::test(start_paused = true)]
async fn partitions_take_turns_and_slow_answers_are_heard() {
    for (delay, round) in [(Duration::ZERO, EVERY), (Duration::from_millis(200), PARTITIONS as u32 * 10 * PATIENCE / 5)]
    {
        let (script, source) = scripted(PARTITIONS, Lag::IsAfter(delay, 2));
        let mut running = Running::start(Projector::builder(source, Arc::new(store())).lag_every(EVERY));
        running.until("all run", is_running).await;
        let began = Instant::now();
        while script.asked().len() < 2 * PARTITIONS {
            within("a question", script.is_asked.notified()).await;
        }
        let took = began.elapsed();
        assert!((round * 19 / 10..=round * 21 / 10 + EVERY).contains(&took), "two rounds took {took:?} of {round:?}");
        let asked = script.asked();
        let all: Vec<_> = (0..PARTITIONS).map(partition).collect();
        assert_eq!(asked, [all.clone(), all].concat());
        let status = running.until("all lags", |status| status.lag().is_some()).await;
        assert_eq!(status.lag(), Some(2 * PARTITIONS as u64));
        running.stop().await.expect("run");
    }
}

#[tokio::test(start_paused = true)]
async fn the_age_is_that_of_the_oldest_event_without_effect() {
    let hours = chrono::Duration::hours;
    let store = store();
    let (script, source) = scripted(2, Lag::Is(0));
    let mut running = Running::start(Projector::builder(source, Arc::new(store.clone())).lag_every(EVERY));
    let status = running.until("all run", is_running).await;
    assert_eq!(status.age(), None, "nobody asked yet");
    running.until("nothing is left", |status| status.age() == Some(Duration::ZERO)).await;

    // Nothing was applied since the start.
    store.set_away(true);
    script.deliver(0, Utc::now() - hours(1));
    let waits = |status: &ProjectorStatus| status.problem().is_some();
    let status = running.until("it waits", waits).await;
    assert_age(&status, hours(1));
    script.set_lag(Lag::Fails);
    let status = running.until("the lag is not known", |status| status.lag().is_none()).await;
    assert_age(&status, hours(1));

    store.set_away(false);
    let status = running.until_applied(1).await;
    assert_eq!((status.lag(), status.age()), (None, None), "nothing is known to wait, and perhaps something does");
    script.set_lag(Lag::Is(0));
    running.until("nothing is left", |status| status.age() == Some(Duration::ZERO)).await;

    // That the last one was long ago does not make a new one old.
    store.set_away(true);
    script.deliver(0, Utc::now());
    let status = running.until("it waits", waits).await;
    assert_age(&status, hours(0));
    store.set_away(false);
    running.until_applied(2).await;

    // Something is left, and the source does not deliver it.
    script.set_lag_of(1, Lag::Is(7));
    let status = running.until("some are left", |status| status.lag() == Some(7)).await;
    assert_age(&status, hours(0));
    assert!(status.partitions[&partition(1)].waiting_since.is_some());
    script.say(SourceEvent::Revoked(vec![partition(1)]));
    running.until("not ours any more", |status| status.age() == Some(Duration::ZERO)).await;
    running.stop().await.expect("run");
}

fn assert_age(status: &ProjectorStatus, expected: chrono::Duration) {
    let age = status.age().and_then(|age| chrono::Duration::from_std(age).ok()).expect("an age");
    assert!((expected..expected + chrono::Duration::minutes(10)).contains(&age), "{age:?}, {status:?}");
}
