//! What the runner does with a projection in memory.

mod gauges;
mod joining;
mod lag;
mod outage;
mod scripted;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use outbox_core::{
    memory::{MemoryBroker, MemoryProjection, Verdict},
    profile::{Profile, SeedEnvelope},
    publisher::Message,
    retry::Backoff,
    source::Partition,
    testing::Sequencer,
};
use outbox_projector::{PartitionState, Projector, Undecodables};
use tokio::time::Instant;

use crate::support::{Running, counted, projector};

#[derive(Default)]
struct Topics {
    broker: MemoryBroker,
    log: Sequencer,
}

impl Topics {
    fn write(&self, topic: &str, key: &str, n: i64) {
        let mut message = Profile::default().message(&self.log.record(counted(key, n))).expect("message");
        message.topic = topic.into();
        self.broker.write(message);
    }

    fn write_garbage(&self, topic: &str) {
        let payload = Some(Bytes::from_static(b"\xffno event"));
        self.broker.write(Message { topic: topic.into(), key: Bytes::new(), payload, headers: Vec::new() });
    }

    fn source(&self) -> outbox_core::memory::MemorySource {
        self.broker.source("group", ["a", "b"], SeedEnvelope)
    }
}

fn numbers(projection: &MemoryProjection, key: &str) -> Vec<u64> {
    projection.events("Suite", key).iter().filter_map(|e| outbox_core::testing::number_of(&e.event)).collect()
}

#[tokio::test]
async fn an_undecodable_record_holds_its_partition_with_everything_before_it_applied() {
    let topics = Topics::default();
    topics.write("a", "a", 1);
    topics.write_garbage("a");
    topics.write("a", "a", 2);
    let projection = MemoryProjection::new("model");
    let mut running = Running::start(projector(topics.source(), Arc::new(projection.clone())));
    let a = Partition::new("memory/a");
    let held = |s: &outbox_projector::ProjectorStatus| {
        s.partitions.get(&a).is_some_and(|p| p.state == PartitionState::Undecodable)
    };
    let status = running.until("held", held).await;
    assert!(status.partitions[&a].error.as_ref().is_some_and(|e| e.contains("a@1")), "where it stands: {status:?}");
    assert!(status.needs_action());
    topics.write("b", "b", 3);
    running.until_applied(2).await;
    topics.write("a", "a", 4);
    topics.write("b", "b", 5);
    running.until_applied(3).await;
    running.stop().await.expect("run");
    assert_eq!((numbers(&projection, "a"), numbers(&projection, "b")), (vec![1], vec![3, 5]));

    let again = Running::start(projector(topics.source(), Arc::new(projection.clone())));
    let mut again = again;
    let status = again.until("held again", held).await;
    assert_eq!(status.totals().duplicates, 1, "what was applied before it is known");
    again.stop().await.expect("run");

    let skipping = projector(topics.source(), Arc::new(projection.clone())).undecodable(Undecodables::Skip);
    let mut skipping = Running::start(skipping);
    let status = skipping.until_applied(2).await;
    assert_eq!(status.partitions[&a].undecodable, 1);
    skipping.stop().await.expect("run");
    assert_eq!(numbers(&projection, "a"), [1, 2, 4], "nothing but the record itself was passed over");
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_waits_does_not_stop_the_others_nor_a_shutdown() {
    let topics = Topics::default();
    let projection = MemoryProjection::new("model").with_rule(|event| match event.aggregate_id.as_str() {
        "bad" => Verdict::Reject("it is bad".into()),
        _ => Verdict::Apply,
    });
    topics.write("a", "bad", 1);
    let hour = Duration::from_hours(1);
    let builder = Projector::builder(topics.source(), Arc::new(projection.clone())).retry(Backoff::new(hour, hour));
    let mut running = Running::start(builder);
    running.until("rejected", outbox_projector::ProjectorStatus::needs_action).await;
    for n in 0..5 {
        topics.write("b", "good", n);
        running.until_applied(n as usize + 1).await;
    }
    let before = Instant::now();
    running.stop().await.expect("run");
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    assert_eq!(numbers(&projection, "good"), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn delays_grow_while_it_is_rejected_and_nothing_is_skipped_when_it_is_mended() {
    let topics = Topics::default();
    let mended = Arc::new(AtomicBool::new(false));
    let rule = mended.clone();
    let projection = MemoryProjection::new("model").with_rule(move |_| {
        if rule.load(Ordering::Relaxed) { Verdict::Apply } else { Verdict::Reject("not yet".into()) }
    });
    for n in 0..3 {
        topics.write("a", "key", n);
    }
    let delays = Backoff::new(Duration::from_millis(100), Duration::from_millis(800));
    let mut running = Running::start(Projector::builder(topics.source(), Arc::new(projection.clone())).retry(delays));
    for failures in [1_u32, 4, 10] {
        let reached = |state| {
            matches!(state, PartitionState::Rejected { failures: f, delay }
            if f == failures && delay <= Duration::from_millis(100 << (f - 1).min(3)))
        };
        running.until("another failure", |s| s.partitions.values().any(|p| reached(p.state))).await;
    }
    topics.write("a", "key", 3);
    mended.store(true, Ordering::Relaxed);
    running.until_applied(4).await;
    running.stop().await.expect("run");
    assert_eq!(numbers(&projection, "key"), [0, 1, 2, 3]);
}
