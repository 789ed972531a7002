//! Several projectors of one consumer share the lanes of a log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use outbox_core::{
    log::{ConsumerName, EventLog},
    log_source::LogSource,
    memory::{MemoryLog, MemoryProjection},
    source::Partition,
};
use outbox_projector::{PartitionState, ProjectorStatus};
use tokio::time::Instant;

use crate::support::{PATIENCE, Running, append, counted, projector};

const LEASE: Duration = Duration::from_secs(12);
const KEYS: i64 = 200;

fn consumer(name: &str) -> ConsumerName {
    ConsumerName::parse(name).expect("name")
}

fn start(log: &MemoryLog, projection: &MemoryProjection) -> Running {
    let source = LogSource::builder(Arc::new(log.clone())).consumer(consumer("model")).shared().lease(LEASE).build();
    Running::start(projector(source, Arc::new(projection.clone())))
}

/// Writes the numbers one after the other, each to its key.
async fn write(log: &MemoryLog, numbers: std::ops::Range<i64>) {
    let events: Vec<_> = numbers.map(|n| counted(&format!("key-{}", n % KEYS), n)).collect();
    for some in events.chunks(50) {
        append(log, some).await;
    }
}

fn owned(status: &ProjectorStatus) -> BTreeSet<Partition> {
    let owned = status.partitions.iter().filter(|(_, p)| p.state != PartitionState::Revoked);
    owned.map(|(partition, _)| partition.clone()).collect()
}

async fn until_owning(running: &mut Running, lanes: usize) -> BTreeSet<Partition> {
    let running_all = |status: &ProjectorStatus| {
        let running = |partition| status.partitions.get(&partition).is_some_and(|p| p.state == PartitionState::Running);
        let owned = owned(status);
        owned.len() == lanes && owned.into_iter().all(running)
    };
    owned(&running.until(&format!("{lanes} lanes"), running_all).await)
}

fn conflicts(running: &Running) -> usize {
    running.status.borrow().partitions.values().map(|p| p.conflicts).sum()
}

/// Waits for effects that any of several projectors makes.
async fn until_effects(projection: &MemoryProjection, count: i64) {
    let deadline = Instant::now() + PATIENCE;
    while projection.len() < count as usize {
        assert!(Instant::now() < deadline, "{} of {count}", projection.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn assert_model(projection: &MemoryProjection, numbers: i64) {
    let expected: BTreeMap<i64, Vec<i64>> =
        (0..KEYS).map(|key| (key, (0..numbers).filter(|n| n % KEYS == key).collect())).collect();
    for (key, numbers) in expected {
        let events = projection.events("Suite", &format!("key-{key}"));
        let found: Vec<i64> =
            events.iter().filter_map(|e| outbox_core::testing::number_of(&e.event)).map(|n| n as i64).collect();
        assert_eq!(found, numbers, "key {key}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_lane_has_one_owner_while_projectors_come_leave_and_die() {
    let log = MemoryLog::default();
    let projection = MemoryProjection::new("model");
    write(&log, 0..1_000).await;
    let mut first = start(&log, &projection);
    assert_eq!(until_owning(&mut first, 64).await.len(), 64);
    write(&log, 1_000..2_000).await;

    let mut second = start(&log, &projection);
    let (of_first, of_second) = tokio::join!(until_owning(&mut first, 32), until_owning(&mut second, 32));
    assert!(of_first.is_disjoint(&of_second));
    write(&log, 2_000..3_000).await;

    let mut third = start(&log, &projection);
    let (a, b) = tokio::join!(until_owning(&mut first, 22), until_owning(&mut second, 22));
    let c = until_owning(&mut third, 20).await;
    assert!(a.is_disjoint(&b) && a.is_disjoint(&c) && b.is_disjoint(&c));
    write(&log, 3_000..4_000).await;
    until_effects(&projection, 4_000).await;

    let stopped = Instant::now();
    let mut found = conflicts(&second);
    second.stop().await.expect("run");
    tokio::join!(until_owning(&mut first, 32), until_owning(&mut third, 32));
    assert!(stopped.elapsed() < LEASE, "with the next renewal: {:?}", stopped.elapsed());
    write(&log, 4_000..5_000).await;

    found += conflicts(&third);
    third.crash().await;
    let crashed = Instant::now();
    write(&log, 5_000..6_000).await;
    until_owning(&mut first, 64).await;
    assert!(crashed.elapsed() < 2 * LEASE, "{:?}", crashed.elapsed());
    until_effects(&projection, 6_000).await;
    found += conflicts(&first);
    first.stop().await.expect("run");
    assert_model(&projection, 6_000);
    // A lane that changes hands in the middle of a step can meet the old owner's step once.
    assert!(found <= 64, "{found} conflicts");
}

/// A projector that waits for its store holds no other projection up, nor does it lose its place.
#[tokio::test(start_paused = true)]
async fn projections_follow_at_their_own_speed() {
    let log = MemoryLog::default();
    let (quick, stuck) = (MemoryProjection::new("quick"), MemoryProjection::new("stuck"));
    let refusing = stuck.clone().with_rule(|_| outbox_core::memory::Verdict::Reject("not today".into()));
    let start = |name, projection: &MemoryProjection| {
        let source = LogSource::builder(Arc::new(log.clone())).consumer(consumer(name)).shared().lease(LEASE).build();
        Running::start(projector(source, Arc::new(projection.clone())))
    };
    let (mut one, mut other) = (start("quick", &quick), start("stuck", &refusing));
    write(&log, 0..1_000).await;
    one.until_applied(1_000).await;
    other.until("it needs somebody to act", ProjectorStatus::needs_action).await;
    one.stop().await.expect("run");
    let at = async |name| log.progress(&consumer(name)).await.expect("progress").position;
    assert_eq!((at("quick").await, at("stuck").await), (1_000, 0));
    other.stop().await.expect("run");
    let mut other = start("stuck", &stuck);
    other.until_applied(1_000).await;
    other.stop().await.expect("run");
    assert_eq!(at("stuck").await, 1_000);
    assert_model(&quick, 1_000);
    assert_model(&stuck, 1_000);
}

/// Of one partition and of many: the position of the one is not that of the others, the watermarks are.
#[tokio::test(start_paused = true)]
async fn a_projection_changes_to_shared_lanes_and_back() {
    let log = MemoryLog::default();
    let projection = MemoryProjection::new("model");
    let alone = || {
        let source = LogSource::builder(Arc::new(log.clone())).consumer(consumer("model")).lease(LEASE).build();
        Running::start(projector(source, Arc::new(projection.clone())))
    };
    write(&log, 0..500).await;
    let mut running = alone();
    running.until_applied(500).await;
    running.crash().await;
    write(&log, 500..1_000).await;
    let running = start(&log, &projection);
    until_effects(&projection, 1_000).await;
    running.stop().await.expect("run");
    write(&log, 1_000..1_500).await;
    let mut running = start(&log, &projection);
    running.until("nothing is left", |status| status.lag() == Some(0)).await;
    running.stop().await.expect("run");
    write(&log, 1_500..2_000).await;
    let mut running = alone();
    running.until_applied(500).await;
    running.stop().await.expect("run");
    assert_model(&projection, 2_000);
}
