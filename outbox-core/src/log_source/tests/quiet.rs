//! What a source costs and does while nothing happens for it.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::*;
use crate::{
    log::{Assignment, Fence, Page, Park, Parked, ParkedEvent, Progress, Redriven, Renewal, Republished},
    wake::Wake,
};

/// Counts calls, and shows no events while it hides them: cursors move all the same, as when other clients of a database
/// are busy.
pub(super) struct Quiet {
    pub(super) inner: MemoryLog,
    pub(super) hides: AtomicBool,
    /// Commits an event just after the next read looked.
    commits_after_read: AtomicBool,
    calls: Mutex<HashMap<&'static str, usize>>,
    widest: AtomicUsize,
    is_slow: AtomicBool,
}

impl Quiet {
    pub(super) fn new(inner: MemoryLog) -> Arc<Self> {
        Arc::new(Self {
            inner,
            hides: AtomicBool::new(true),
            commits_after_read: AtomicBool::new(false),
            calls: Mutex::default(),
            widest: AtomicUsize::new(0),
            is_slow: AtomicBool::new(false),
        })
    }

    fn call(&self, what: &'static str) {
        *self.calls.lock().expect("no panic").entry(what).or_default() += 1;
    }

    pub(super) fn forget_calls(&self) {
        self.calls.lock().expect("no panic").clear();
        self.widest.store(0, Ordering::Relaxed);
    }

    /// The most tracks in one read.
    pub(super) fn widest_look(&self) -> usize {
        self.widest.load(Ordering::Relaxed)
    }

    pub(super) fn calls(&self, what: &str) -> usize {
        self.calls.lock().expect("no panic").get(what).copied().unwrap_or_default()
    }
}

#[async_trait]
impl EventLog for Quiet {
    fn capabilities(&self) -> crate::log::LogCapabilities {
        EventLog::capabilities(&self.inner)
    }

    async fn identity(&self) -> Result<crate::log::LogIdentity, LogError> {
        self.call("identity");
        self.inner.identity().await
    }

    async fn register(&self, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
        self.call("register");
        self.inner.register(consumer, start).await
    }

    async fn join(
        &self,
        consumer: &ConsumerName,
        member: MemberId,
        claim: Claim,
        lease: Duration,
    ) -> Result<Assignment, LogError> {
        self.call("join");
        self.inner.join(consumer, member, claim, lease).await
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<Renewal, LogError> {
        self.call("renew");
        self.inner.renew(fence, lease).await
    }

    async fn release(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        self.inner.release(fence, tracks).await
    }

    async fn leave(&self, fence: &Fence) -> Result<(), LogError> {
        self.inner.leave(fence).await
    }

    async fn read(&self, tracks: &[Track], limit: usize) -> Result<Vec<Page>, LogError> {
        self.call("read");
        self.widest.fetch_max(tracks.len(), Ordering::Relaxed);
        if self.is_slow.load(Ordering::Relaxed) {
            // Not a wait: a slow log is what the test is about.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let mut pages = self.inner.read(tracks, limit).await?;
        if self.commits_after_read.swap(false, Ordering::Relaxed) {
            append(&self.inner, &[event()]).await;
        }
        if self.hides.load(Ordering::Relaxed) {
            for page in &mut pages {
                page.events.clear();
            }
        }
        Ok(pages)
    }

    async fn checkpoint(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        self.call("checkpoint");
        self.inner.checkpoint(fence, tracks).await
    }

    async fn park(&self, fence: &Fence, events: &[Park]) -> Result<Vec<Parked>, LogError> {
        self.inner.park(fence, events).await
    }

    async fn blocked_keys(&self, fence: &Fence) -> Result<Vec<String>, LogError> {
        self.inner.blocked_keys(fence).await
    }

    async fn due_parked(&self, fence: &Fence, limit: usize) -> Result<Vec<ParkedEvent>, LogError> {
        self.inner.due_parked(fence, limit).await
    }

    async fn redriven(&self, fence: &Fence, events: &[Republished]) -> Result<Vec<Redriven>, LogError> {
        self.inner.redriven(fence, events).await
    }

    async fn progress(&self, consumer: &ConsumerName) -> Result<Progress, LogError> {
        self.inner.progress(consumer).await
    }

    fn wake(&self) -> &Wake {
        self.inner.wake()
    }
}

async fn started_all(source: &mut LogSource) {
    let SourceEvent::Assigned(partitions) = source.next().await.expect("next") else { panic!("not assigned") };
    for partition in &partitions {
        source.start(partition, None).await.expect("start");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_source_costs_at_most_75_queries_a_minute() {
    for is_shared in [false, true] {
        let log = Quiet::new(MemoryLog::default());
        let builder = builder(log.clone());
        let mut source = if is_shared { builder.shared() } else { builder }.build();
        started_all(&mut source).await;
        let _warm_up = tokio::time::timeout(Duration::from_mins(1), source.next()).await;
        log.forget_calls();
        assert!(tokio::time::timeout(Duration::from_mins(10), source.next()).await.is_err(), "nothing comes");
        let calls: usize = log.calls.lock().expect("no panic").values().sum();
        assert!((600..=750).contains(&calls), "{:?}", log.calls);
    }
}

/// Whoever asks something else in between, as a projector does, costs the log nothing.
#[tokio::test(start_paused = true)]
async fn a_next_that_is_dropped_again_and_again_looks_no_more_often() {
    let log = Quiet::new(MemoryLog::default());
    let mut source = source(log.clone());
    started(&mut source).await;
    let _warm_up = tokio::time::timeout(Duration::from_mins(1), source.next()).await;
    log.forget_calls();
    for _ in 0..60_000 {
        assert!(tokio::time::timeout(Duration::from_millis(1), source.next()).await.is_err(), "nothing comes");
    }
    let looks = log.calls("read");
    assert!((55..=65).contains(&looks), "{looks} looks in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_partition_without_events_moves_on_once_in_a_while() {
    let log = Quiet::new(MemoryLog::default());
    let mut source = source(log.clone());
    let partition = started(&mut source).await;
    let (start, mut positions) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs(605) {
        append(&log.inner, &[event()]).await;
        let Ok(event) = tokio::time::timeout(Duration::from_secs(5), source.next()).await else { continue };
        let SourceEvent::Batch(batch) = event.expect("next") else { panic!("no batch") };
        assert!(batch.records.is_empty(), "{batch:?}");
        source.commit(&partition, &batch.position).await.expect("commit");
        positions.push(batch.position);
    }
    assert!((9..=10).contains(&positions.len()), "about once a minute: {positions:?}");
    let progress = log.progress(&consumer()).await.expect("progress");
    assert!(progress.head - progress.position <= 30, "{progress:?}");
}

#[tokio::test(start_paused = true)]
async fn a_commit_between_a_look_and_the_wait_is_not_missed() {
    let log = Quiet::new(MemoryLog::default());
    log.hides.store(false, Ordering::Relaxed);
    let day = Duration::from_hours(24);
    let mut source = LogSource::builder(log.clone()).consumer(consumer()).lease(day).poll(day).build();
    started(&mut source).await;
    // Far into the ever longer pauses.
    assert!(tokio::time::timeout(Duration::from_hours(1), source.next()).await.is_err());
    log.commits_after_read.store(true, Ordering::Relaxed);
    log.wake().ring();
    let before = Instant::now();
    assert_eq!(batch(&mut source).await.records.len(), 1);
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

/// It was not among those that the look is for.
#[tokio::test(start_paused = true)]
async fn a_partition_resumed_during_a_look_is_looked_at_after_it() {
    let log = Quiet::new(MemoryLog::default());
    log.hides.store(false, Ordering::Relaxed);
    let day = Duration::from_hours(24);
    let mut source = LogSource::builder(log.clone()).consumer(consumer()).lease(day).poll(day).shared().build();
    let SourceEvent::Assigned(lanes) = source.next().await.expect("next") else { panic!("not assigned") };
    for lane in &lanes {
        source.start(lane, None).await.expect("start");
    }
    append(&log.inner, &[event()]).await;
    let lane = batch(&mut source).await.partition;
    let other = lanes.into_iter().find(|other| *other != lane).expect("another lane");
    // Far into the ever longer pauses. The other lanes move on without events.
    let later = Instant::now() + Duration::from_hours(1);
    while tokio::time::timeout_at(later, source.next()).await.is_ok() {}
    source.pause(&lane).await.expect("pause");
    log.is_slow.store(true, Ordering::Relaxed);
    // No bell: another process writes.
    let mut tx = log.inner.begin();
    let _unheard = log.inner.append(&mut tx, &[event()]).await.expect("append");
    tx.commit().await;
    source.resume(&other).await.expect("a resume makes it look");
    assert!(tokio::time::timeout(Duration::from_millis(500), source.next()).await.is_err(), "the look is under way");
    source.resume(&lane).await.expect("resume");
    let before = Instant::now();
    assert_eq!(batch(&mut source).await.partition, lane);
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
}
