//! A rebuild and its claim to the read model.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    log::{ConsumerName, EventLog as _, LogAdmin as _, StartAt},
    memory::{MemoryLog, MemoryProjection},
    projection::Projection,
};
use outbox_projector::rebuild::{
    Generation, Generations, LogSources, Rebuild, RebuildError, RebuildErrorKind, Stage, State,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::{append, counted, within};

/// The claim is refused from a certain time on.
struct Claimed {
    claims: AtomicUsize,
    granted: usize,
    fails: RebuildErrorKind,
    released: AtomicUsize,
    swaps: AtomicUsize,
}

#[async_trait]
impl Generations for Claimed {
    fn name(&self) -> &'static str {
        "model"
    }

    async fn state(&self) -> Result<State, RebuildError> {
        Ok(State { live: Generation::FIRST, building: None })
    }

    async fn before(&self, _: Generation) -> Result<Vec<Generation>, RebuildError> {
        Ok(Vec::new())
    }

    async fn claim(&self, _: Uuid, lease: Duration) -> Result<(), RebuildError> {
        assert_eq!(lease, Duration::from_secs(15));
        if self.claims.fetch_add(1, Ordering::Relaxed) < self.granted {
            return Ok(());
        }
        Err(RebuildError::new(self.fails, "on cue"))
    }

    async fn release(&self, _: Uuid) -> Result<(), RebuildError> {
        self.released.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn prepare(&self, _: Generation) -> Result<(), RebuildError> {
        Ok(())
    }

    fn projection(&self, generation: Generation, _: Stage) -> Arc<dyn Projection> {
        Arc::new(MemoryProjection::new(generation.name("model")))
    }

    async fn swap(&self, _: Generation) -> Result<(), RebuildError> {
        self.swaps.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn discard(&self, _: Generation) -> Result<(), RebuildError> {
        Ok(())
    }
}

/// A rebuild that does not get to its end, until `time` passed. How it ended, and when.
async fn run(granted: usize, fails: RebuildErrorKind, time: Duration) -> (Arc<Claimed>, RebuildErrorKind, Duration) {
    let log = MemoryLog::default();
    append(&log, &[counted("key", 1)]).await;
    let consumer = ConsumerName::parse("model.g2").expect("name");
    log.register(&consumer, StartAt::Beginning).await.expect("register");
    log.set_paused(&consumer, true).await.expect("pause");
    let sources = LogSources::new(Arc::new(log), ConsumerName::parse("model").expect("name"));
    let (claims, released, swaps) = Default::default();
    let generations = Arc::new(Claimed { claims, granted, fails, released, swaps });
    let began = Instant::now();
    // On a clock that is paused: the test does not wait.
    let stop = tokio::time::sleep(time);
    let rebuild = Rebuild::new(generations.clone(), Arc::new(sources)).swap_within(0);
    let ended = within("its end", rebuild.run(stop)).await.expect_err("it did not get to its end");
    (generations, ended.kind(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_that_is_refused_touches_nothing() {
    let (generations, ended, after) = run(0, RebuildErrorKind::Busy, Duration::from_secs(50)).await;
    assert_eq!((ended, after), (RebuildErrorKind::Busy, Duration::ZERO));
    assert_eq!(generations.released.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_renews_its_claim_and_ends_when_another_has_it() {
    let (generations, ended, after) = run(4, RebuildErrorKind::Busy, Duration::from_secs(50)).await;
    assert_eq!(ended, RebuildErrorKind::Busy);
    assert!((Duration::from_secs(20)..Duration::from_secs(22)).contains(&after), "with the fifth claim: {after:?}");
    assert_eq!(generations.swaps.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_renewed_now_is_renewed_later() {
    let (generations, ended, after) = run(1, RebuildErrorKind::Unavailable, Duration::from_secs(48)).await;
    assert_eq!(ended, RebuildErrorKind::Stopped);
    assert!(after >= Duration::from_secs(48), "{after:?}");
    assert_eq!(generations.claims.load(Ordering::Relaxed), 10, "every 5 s");
    assert_eq!(generations.released.load(Ordering::Relaxed), 1);
}
