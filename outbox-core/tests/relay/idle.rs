//! What an idle relay costs its log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    log::{
        Assignment, Claim, ConsumerName, EventLog, Fence, LogCapabilities, LogError, LogIdentity, MemberId, Page, Park,
        Parked, ParkedEvent, Progress, Redriven, Renewal, Republished, StartAt, Track,
    },
    memory::MemoryLog,
    profile::Profile,
    relay::{Relay, RelayState},
    wake::Wake,
};

use crate::support::{Bench, Running, consumer};

#[tokio::test(start_paused = true)]
async fn an_idle_relay_and_one_that_stands_by_ask_little() {
    let mut bench = Bench::new();
    bench.change(0..10).await;
    let log = Arc::new(Counting { inner: bench.log.inner().clone(), calls: AtomicUsize::new(0) });
    let relay = || Relay::builder(log.clone(), bench.publisher.clone(), Profile::default()).build();
    let mut running = Running::start(relay());
    running.until("active", |s| s.state == RelayState::Active && s.checkpoint_position == 10).await;
    let a_minute = log.calls_a_minute().await;
    assert!((60..=75).contains(&a_minute), "{a_minute} calls a minute");
    running.stop().await;

    let (consumer, all_day) = (consumer(), Duration::from_hours(24));
    log.inner.join(&consumer, MemberId::random(), Claim::All, all_day).await.expect("join");
    let mut waiting = Running::start(relay());
    waiting.until("stands by", |s| s.state == RelayState::Standby).await;
    let a_minute = log.calls_a_minute().await;
    assert!((10..=13).contains(&a_minute), "{a_minute} calls a minute");
    waiting.stop().await;
}

struct Counting {
    inner: MemoryLog,
    calls: AtomicUsize,
}

impl Counting {
    async fn calls_a_minute(&self) -> usize {
        // On a paused clock, since calls over time are what is counted. The polls grow apart first.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let before = self.calls.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_mins(10)).await;
        (self.calls.load(Ordering::Relaxed) - before) / 10
    }

    fn count(&self) -> &MemoryLog {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.inner
    }
}

#[async_trait]
impl EventLog for Counting {
    fn capabilities(&self) -> LogCapabilities {
        self.inner.capabilities()
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        self.count().identity().await
    }

    async fn register(&self, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
        self.count().register(consumer, start).await
    }

    async fn join(
        &self,
        consumer: &ConsumerName,
        member: MemberId,
        claim: Claim,
        lease: Duration,
    ) -> Result<Assignment, LogError> {
        self.count().join(consumer, member, claim, lease).await
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<Renewal, LogError> {
        self.count().renew(fence, lease).await
    }

    async fn release(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        self.count().release(fence, tracks).await
    }

    async fn leave(&self, fence: &Fence) -> Result<(), LogError> {
        self.count().leave(fence).await
    }

    async fn read(&self, tracks: &[Track], limit: usize) -> Result<Vec<Page>, LogError> {
        self.count().read(tracks, limit).await
    }

    async fn checkpoint(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        self.count().checkpoint(fence, tracks).await
    }

    async fn park(&self, fence: &Fence, events: &[Park]) -> Result<Vec<Parked>, LogError> {
        self.count().park(fence, events).await
    }

    async fn blocked_keys(&self, fence: &Fence) -> Result<Vec<String>, LogError> {
        self.count().blocked_keys(fence).await
    }

    async fn due_parked(&self, fence: &Fence, limit: usize) -> Result<Vec<ParkedEvent>, LogError> {
        self.count().due_parked(fence, limit).await
    }

    async fn redriven(&self, fence: &Fence, events: &[Republished]) -> Result<Vec<Redriven>, LogError> {
        self.count().redriven(fence, events).await
    }

    async fn progress(&self, consumer: &ConsumerName) -> Result<Progress, LogError> {
        self.count().progress(consumer).await
    }

    fn wake(&self) -> &Wake {
        self.inner.wake()
    }
}
