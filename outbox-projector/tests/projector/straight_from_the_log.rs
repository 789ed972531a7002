//! A projection as a named consumer of a log.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    log::{ConsumerName, EventLog},
    log_source::LogSource,
    memory::{MemoryLog, MemoryProjection},
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};
use outbox_projector::{PartitionState, ProjectorErrorKind};
use tokio::time::Instant;

use crate::support::{Running, append, counted, projector};

const LEASE: Duration = Duration::from_secs(12);

fn consumer() -> ConsumerName {
    ConsumerName::parse("model").expect("name")
}

fn source(log: &MemoryLog) -> LogSource {
    LogSource::builder(Arc::new(log.clone())).consumer(consumer()).lease(LEASE).build()
}

fn ids(projection: &MemoryProjection) -> Vec<u64> {
    projection.events("Suite", "key").iter().filter_map(|e| outbox_core::testing::number_of(&e.event)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_crashed_runner_is_taken_over_when_its_lease_ends() {
    let log = MemoryLog::default();
    let projection = MemoryProjection::new("model");
    append(&log, &[counted("key", 1), counted("key", 2)]).await;
    let mut first = Running::start(projector(source(&log), Arc::new(projection.clone())));
    first.until_applied(2).await;
    first.crash().await;
    let crashed = Instant::now();
    append(&log, &[counted("key", 3)]).await;
    let mut second = Running::start(projector(source(&log), Arc::new(projection.clone())));
    let status = second.until_applied(1).await;
    assert_eq!(status.totals().duplicates, 0, "it goes on at the position the projection kept");
    let waited = crashed.elapsed();
    assert!((LEASE / 2..LEASE + Duration::from_secs(2)).contains(&waited), "{waited:?}");
    second.stop().await.expect("run");
    assert_eq!(ids(&projection), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_runner_hands_over_at_once() {
    let log = MemoryLog::default();
    let projection = MemoryProjection::new("model");
    let mut first = Running::start(projector(source(&log), Arc::new(projection.clone())));
    first.until("assigned", |s| !s.partitions.is_empty()).await;
    let second = Running::start(projector(source(&log), Arc::new(projection.clone())));
    first.stop().await.expect("run");
    let closed = Instant::now();
    append(&log, &[counted("key", 1)]).await;
    let mut second = second;
    second.until_applied(1).await;
    assert!(closed.elapsed() < Duration::from_secs(2), "{:?}", closed.elapsed());
    second.stop().await.expect("run");
}

/// Takes longer over a step than the lease lasts.
struct Slow(MemoryProjection);

#[async_trait]
impl Projection for Slow {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        self.0.capabilities()
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        self.0.position(partition).await
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        // Not a wait: it is the slow handler that the test is about.
        tokio::time::sleep(3 * LEASE).await;
        self.0.apply(step).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_step_does_not_lose_the_lease() {
    let log = MemoryLog::default();
    let projection = MemoryProjection::new("model");
    append(&log, &[counted("key", 1)]).await;
    let mut first = Running::start(projector(source(&log), Arc::new(Slow(projection.clone()))));
    first.until("running", |s| s.partitions.values().any(|p| p.state == PartitionState::Running)).await;
    let second = Running::start(projector(source(&log), Arc::new(projection.clone())));
    first.until_applied(1).await;
    assert!(second.status.borrow().partitions.is_empty(), "the second never got the partition");
    first.stop().await.expect("run");
    second.stop().await.expect("run");
}

/// Nobody may write for long, and retention would wait all the while.
#[tokio::test(start_paused = true)]
async fn what_a_crash_kept_from_the_log_is_told_to_it_at_the_next_start() {
    let log = MemoryLog::default();
    let projection = MemoryProjection::new("model");
    append(&log, &[counted("key", 1), counted("key", 2)]).await;
    let mut first = Running::start(projector(source(&log), Arc::new(projection.clone())));
    first.until_applied(2).await;
    first.crash().await;
    assert_eq!(log.progress(&consumer()).await.expect("progress").position, 0);
    let second = Running::start(projector(source(&log), Arc::new(projection)));
    // The runner tells nobody when it commits.
    let deadline = Instant::now() + LEASE + Duration::from_secs(5);
    while log.progress(&consumer()).await.expect("progress").position < 2 {
        assert!(Instant::now() < deadline, "not committed when it started again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    second.stop().await.expect("run");
}

#[tokio::test(start_paused = true)]
async fn retention_follows_without_a_shutdown() {
    let log = MemoryLog::default();
    let mut running = Running::start(projector(source(&log), Arc::new(MemoryProjection::new("model"))));
    append(&log, &[counted("key", 1)]).await;
    running.until_applied(1).await;
    // The runner tells nobody when it commits.
    let deadline = Instant::now() + Duration::from_secs(3);
    while log.progress(&consumer()).await.expect("progress").position < 1 {
        assert!(Instant::now() < deadline, "not committed within a second or so");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.stop().await.expect("run");
}

/// Keeps no position, as an index with versioned documents; its effects are harmless when repeated.
#[derive(Default)]
struct Versioned {
    away: AtomicBool,
    effects: Mutex<Vec<u64>>,
}

#[async_trait]
impl Projection for Versioned {
    fn name(&self) -> &'static str {
        "versioned"
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        ProjectionCapabilities::new(false)
    }

    async fn position(&self, _: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        Ok(None)
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(ProjectionError::new(ProjectionErrorKind::Unavailable, "the index is away"));
        }
        self.effects
            .lock()
            .unwrap()
            .extend(step.events.iter().filter_map(|e| outbox_core::testing::number_of(&e.event)));
        Ok(Applied { applied: step.events.len(), ..Applied::default() })
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_source_keeps_the_position_it_commits_behind_the_effect() {
    let log = MemoryLog::default();
    let projection = Arc::new(Versioned::default());
    let committed = async || log.progress(&consumer()).await.expect("progress").position;
    let mut first = Running::start(projector(source(&log), projection.clone()));
    append(&log, &[counted("key", 1)]).await;
    first.until_applied(1).await;
    first.crash().await;
    assert_eq!(committed().await, 1, "at once");

    projection.away.store(true, Ordering::Relaxed);
    append(&log, &[counted("key", 2), counted("key", 3)]).await;
    let mut second = Running::start(projector(source(&log), projection.clone()));
    let retrying = |state| matches!(state, PartitionState::Retrying { failures, .. } if failures > 3);
    second.until("waiting", |s| s.partitions.values().any(|p| retrying(p.state))).await;
    assert_eq!(committed().await, 1);
    second.stop().await.expect("run");
    assert_eq!(committed().await, 1, "what had no effect comes again");

    projection.away.store(false, Ordering::Relaxed);
    let mut third = Running::start(projector(source(&log), projection.clone()));
    third.until_applied(2).await;
    third.stop().await.expect("run");
    assert_eq!(committed().await, 3);
    assert_eq!(*projection.effects.lock().unwrap(), [1, 2, 3]);
}

#[tokio::test]
async fn a_position_of_another_log_ends_the_runner() {
    let (old, new) = (MemoryLog::default(), MemoryLog::default());
    let projection = MemoryProjection::new("model");
    append(&old, &[counted("key", 1)]).await;
    let mut first = Running::start(projector(source(&old), Arc::new(projection.clone())));
    first.until_applied(1).await;
    let (partition, status) = {
        let status = first.status.borrow();
        let (partition, status) = status.partitions.iter().next().expect("one partition");
        (partition.clone(), status.clone())
    };
    first.stop().await.expect("run");
    let of_new = Partition::new(partition.as_str().replace(
        &old.identity().await.expect("identity").id.to_string(),
        &new.identity().await.expect("identity").id.to_string(),
    ));
    let position = status.position.expect("a position");
    projection
        .apply(Step::new(&of_new, None, &position, &[]))
        .await
        .expect("a position that was restored with the wrong log");
    let error = Running::start(projector(source(&new), Arc::new(projection))).end().await.expect_err("foreign");
    assert_eq!(error.kind(), ProjectorErrorKind::BadPosition);
}
