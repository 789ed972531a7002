use async_trait::async_trait;
use bytes::Bytes;

use super::assert_caught;
use crate::{
    event::NewEvent,
    memory::{MemoryBroker, MemorySource},
    profile::{Profile, SeedEnvelope},
    publisher::Message,
    source::{EventSource, Partition, SourceCapabilities, SourceError, SourceEvent, SourcePosition, SourceRecord},
    testing::{
        Sequencer,
        source::{self as suite, SourceHarness},
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// Assigned partitions are started at once.
    Eager,
    /// Commits on delivery, before anything took effect.
    CommitsOnDelivery,
    /// Commits are not stored.
    ForgetsCommits,
    /// The position given to `start` is not looked at.
    IgnoresPositions,
    /// Delivers on while paused.
    IgnoresPause,
    /// What is no event is passed over.
    SkipsUndecodable,
    /// A batch is delivered back to front.
    Reorders,
    /// Partitions are kept after the end.
    KeepsPartitions,
}

struct Harness {
    flaw: Flaw,
    broker: MemoryBroker,
    sequencer: Sequencer,
}

impl Harness {
    fn with(flaw: Flaw) -> Self {
        Self { flaw, broker: MemoryBroker::default(), sequencer: Sequencer::default() }
    }
}

#[async_trait]
impl SourceHarness for Harness {
    type Source = Broken;

    async fn open(&self) -> Broken {
        Broken { flaw: self.flaw, inner: Some(self.broker.source("suite", ["suite-events"], SeedEnvelope)) }
    }

    async fn produce(&self, events: Vec<NewEvent>) {
        for event in events {
            self.broker.write(Profile::default().message(&self.sequencer.record(event)).expect("message"));
        }
    }

    async fn produce_foreign(&self, payload: Bytes) {
        let (topic, key) = ("suite-events".into(), Bytes::from_static(b"key"));
        self.broker.write(Message { topic, key, payload: Some(payload), headers: Vec::new() });
    }
}

struct Broken {
    flaw: Flaw,
    inner: Option<MemorySource>,
}

impl Broken {
    fn inner(&mut self) -> &mut MemorySource {
        self.inner.as_mut().expect("not closed")
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        if self.flaw == Flaw::KeepsPartitions {
            std::mem::forget(self.inner.take());
        }
    }
}

#[async_trait]
impl EventSource for Broken {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::new(true)
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        let flaw = self.flaw;
        loop {
            let mut event = self.inner().next().await?;
            match (&mut event, flaw) {
                (SourceEvent::Assigned(partitions), Flaw::Eager) => {
                    for partition in partitions.iter() {
                        self.inner().start(partition, None).await?;
                    }
                }
                (SourceEvent::Batch(batch), Flaw::CommitsOnDelivery) => {
                    self.inner().commit(&batch.partition, &batch.position).await?;
                }
                (SourceEvent::Batch(batch), Flaw::Reorders) => batch.records.reverse(),
                (SourceEvent::Batch(batch), Flaw::SkipsUndecodable) => {
                    batch.records.retain(|record| matches!(record, SourceRecord::Event(_)));
                    if batch.records.is_empty() {
                        continue;
                    }
                }
                _ => {}
            }
            return Ok(event);
        }
    }

    async fn start(&mut self, partition: &Partition, after: Option<&SourcePosition>) -> Result<(), SourceError> {
        let after = after.filter(|_| self.flaw != Flaw::IgnoresPositions);
        self.inner().start(partition, after).await
    }

    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError> {
        if self.flaw == Flaw::ForgetsCommits {
            return Ok(());
        }
        self.inner().commit(partition, position).await
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), SourceError> {
        if self.flaw == Flaw::IgnoresPause {
            return Ok(());
        }
        self.inner().pause(partition).await
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.inner().resume(partition).await
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        if self.flaw == Flaw::KeepsPartitions {
            return Ok(());
        }
        self.inner().close().await
    }
}

crate::source_suite!(without_a_flaw, || async { Harness::with(Flaw::None) });

#[tokio::test(start_paused = true)]
async fn a_source_that_delivers_unasked_is_caught() {
    let harness = Harness::with(Flaw::Eager);
    assert_caught(suite::nothing_is_delivered_before_start(&harness), "no partition was started").await;
    let harness = Harness::with(Flaw::IgnoresPause);
    assert_caught(suite::a_paused_partition_is_silent(&harness), "the partition is paused").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_commits_too_early_or_never_is_caught() {
    let harness = Harness::with(Flaw::CommitsOnDelivery);
    assert_caught(suite::uncommitted_events_come_again(&harness), "5 records").await;
    let harness = Harness::with(Flaw::ForgetsCommits);
    assert_caught(suite::committed_events_do_not_come_again(&harness), "left == right").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_ignores_positions_is_caught() {
    let harness = Harness::with(Flaw::IgnoresPositions);
    let case = suite::a_position_given_counts_more_than_the_commit(&harness);
    assert_caught(case, "2 records").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_passes_over_what_it_cannot_decode_is_caught() {
    let harness = Harness::with(Flaw::SkipsUndecodable);
    assert_caught(suite::what_is_no_event_is_handed_over(&harness), "3 records").await;
}

#[tokio::test]
async fn a_source_that_reorders_is_caught() {
    let harness = Harness::with(Flaw::Reorders);
    assert_caught(suite::every_event_is_delivered_in_order(&harness), "order within key 0").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_keeps_its_partitions_is_caught() {
    let harness = Harness::with(Flaw::KeepsPartitions);
    assert_caught(suite::closing_gives_the_partitions_back(&harness), "three sources in time").await;
}
