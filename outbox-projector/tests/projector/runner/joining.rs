//! A log that is slow to let a projector in, or hangs.

use std::{sync::Arc, time::Duration};

use outbox_core::{
    log::ConsumerName,
    log_source::LogSource,
    memory::{MemoryLog, MemoryProjection},
    testing::{FaultyLog, LogOperation},
};
use outbox_projector::{Projector, ProjectorBuilder};
use tokio::time::Instant;

use crate::support::{Running, append, counted};

const LEASE: Duration = Duration::from_secs(12);
/// More often than the log answers.
const EVERY: Duration = Duration::from_secs(1);

fn projector(log: &FaultyLog<MemoryLog>) -> ProjectorBuilder {
    let consumer = ConsumerName::parse("model").expect("name");
    let source = LogSource::builder(Arc::new(log.clone())).consumer(consumer).lease(LEASE).build();
    Projector::builder(source, Arc::new(MemoryProjection::new("model"))).lag_every(EVERY)
}

async fn log_of_one() -> FaultyLog<MemoryLog> {
    let log = FaultyLog::new(MemoryLog::default());
    append(log.inner(), &[counted("key", 1)]).await;
    log
}

#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_answer_is_told_and_asked_again() {
    for operation in [LogOperation::Identity, LogOperation::Register, LogOperation::Join] {
        let log = log_of_one().await;
        log.hang_next(operation, 1);
        let before = Instant::now();
        let mut running = Running::start(projector(&log));
        running.until("no answer", |status| status.source_error.is_some()).await;
        let waited = before.elapsed();
        assert!((LEASE..LEASE + EVERY).contains(&waited), "{operation:?}: {waited:?}");
        let status = running.until_applied(1).await;
        assert_eq!(status.source_error, None);
        assert!(before.elapsed() < LEASE + 2 * EVERY, "{operation:?}: {:?}", before.elapsed());
        running.stop().await.expect("run");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_slow_lets_it_in() {
    let log = log_of_one().await;
    for operation in [LogOperation::Identity, LogOperation::Register, LogOperation::Join] {
        // Whatever is asked once more is slow too.
        log.slow_next(operation, usize::MAX, 3 * EVERY);
    }
    let mut running = Running::start(projector(&log));
    let before = Instant::now();
    let status = running.until_applied(1).await;
    assert_eq!(status.source_error, None);
    assert!(before.elapsed() < 10 * EVERY, "{:?}", before.elapsed());
    running.stop().await.expect("run");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_stopped_while_it_joins_is_in_nobodys_way() {
    let log = log_of_one().await;
    log.slow_next(LogOperation::Join, 1, LEASE / 2);
    let first = Running::start(projector(&log));
    tokio::task::yield_now().await;
    let mut second = Running::start(projector(&FaultyLog::new(log.inner().clone())));
    first.stop().await.expect("run");
    let stopped = Instant::now();
    second.until_applied(1).await;
    assert!(stopped.elapsed() < LEASE / 4, "{:?}", stopped.elapsed());
    second.stop().await.expect("run");
}
