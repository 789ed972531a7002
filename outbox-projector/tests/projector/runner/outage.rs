//! The store of a read model is away for long.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use outbox_core::{memory::MemoryProjection, projection::ProjectionErrorKind};
use outbox_projector::{Projector, dead_letters::TopicDeadLetters};
use tokio::time::Instant;

use super::{Topics, numbers, scripted::Store};
use crate::support::Running;

/// The longest wait between two tries, by default.
const CAP: Duration = Duration::from_secs(30);

/// The default backoff is full jitter under 100 ms doubling to 30 s: at most 9 waits come before the first of 30 s, and
/// from there on they are 15 s in the mean. Four times as many as the mean would make are not met by chance.
fn most_tries(outage: Duration) -> usize {
    9 + 4 * (outage.as_secs() as usize).div_ceil(15)
}

#[tokio::test(start_paused = true)]
async fn a_minute_or_an_hour_away_costs_few_tries_and_nothing_is_lost() {
    for (outage, least) in [(Duration::from_mins(1), 9), (Duration::from_hours(1), 100)] {
        let topics = Topics::default();
        let projection = MemoryProjection::new("model");
        let store = Store::of(projection.clone());
        let letters = Arc::new(TopicDeadLetters::new(Arc::new(topics.broker.publisher()), "dead-letters"));
        let builder = Projector::builder(topics.source(), Arc::new(store.clone()))
            .attempts(NonZeroU32::new(2).expect("not 0"))
            .dead_letters(letters);
        // One more try that counts would make a dead letter of it.
        store.inner.fail_next(1, ProjectionErrorKind::Failed);
        topics.write("a", "key", 0);
        let mut running = Running::start(builder);
        running.until("the event failed", |status| status.problem().is_some()).await;

        store.set_away(true);
        let before = store.calls();
        for n in 1..=60 {
            topics.write(if n % 2 == 0 { "a" } else { "b" }, if n % 2 == 0 { "key" } else { "other" }, n);
            pass(outage / 60).await;
        }
        let calls = store.calls() - before;
        // Both partitions try.
        assert!((least..=2 * most_tries(outage)).contains(&calls), "{calls} tries in {outage:?}");
        assert!(running.status.borrow().age().is_some(), "something waits, and that is known");

        store.set_away(false);
        let healed = Instant::now();
        let status = running.until_applied(61).await;
        assert!(healed.elapsed() <= CAP, "{:?}", healed.elapsed());
        assert_eq!((status.totals().applied, status.problem()), (61, None));
        assert!(status.partitions.values().all(|p| p.dead_letters == 0), "{status:?}");
        assert!(topics.broker.messages("dead-letters").is_empty(), "an outage is no fault of an event");
        running.stop().await.expect("run");
        assert_eq!(numbers(&projection, "key"), (0..=60).step_by(2).collect::<Vec<_>>());
        assert_eq!(numbers(&projection, "other"), (1..60).step_by(2).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_from_the_start_is_waited_for() {
    let topics = Topics::default();
    let store = Store::of(MemoryProjection::new("model"));
    store.set_away(true);
    topics.write("a", "key", 0);
    let mut running = Running::start(Projector::builder(topics.source(), Arc::new(store.clone())));
    let hour = Duration::from_hours(1);
    for _ in 0..60 {
        pass(hour / 60).await;
    }
    let calls = store.calls();
    assert!((100..=2 * most_tries(hour)).contains(&calls), "{calls} tries");
    let status = running.status.borrow().clone();
    assert_eq!((status.lag(), status.age()), (None, None), "nothing was read, so nobody knows");
    store.set_away(false);
    let healed = Instant::now();
    running.until_applied(1).await;
    assert!(healed.elapsed() <= CAP, "{:?}", healed.elapsed());
    running.stop().await.expect("run");
}

/// On a clock that is paused: whatever is due in between happens in its time, and the test does not wait.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
