use async_trait::async_trait;
use bytes::Bytes;

use super::assert_caught;
use crate::{
    event::{Headers, NewEvent},
    memory::{MemoryBroker, MemorySource},
    profile::{Profile, SeedEnvelope},
    publisher::Message,
    source::{
        EventSource, Partition, SourceCapabilities, SourceError, SourceErrorKind, SourceEvent, SourcePosition,
        SourceRecord,
    },
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
    /// A second start of a partition does nothing.
    StartsOnce,
    /// A rewind goes behind the commit.
    RewindsToTheCommit,
    /// A position that fits no more is taken for the beginning.
    StartsAnywhere,
    /// What was committed of a topic that was created again is taken for a place in the new one.
    TakesAnyCommit,
    /// A partition that changed under it is started anew where it was, in silence.
    GoesOnInSilence,
    /// A position at the beginning of what retention left is refused.
    WantsTheLastRecord,
    /// Says nothing when it records nothing.
    CommitsLate,
    /// Delivers what was there when it was opened.
    Deaf,
    /// Headers are not handed on.
    LosesHeaders,
    /// What it took is lost when `next` is dropped.
    LosesWhatItTook,
    /// Any text is a position.
    TakesAnyPosition,
    /// Says that nothing is to come.
    AlwaysAtTheEnd,
    /// Counts what was delivered as done.
    CountsFromDelivery,
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
        let inner = Some(self.broker.source("suite", ["suite-events"], SeedEnvelope));
        Broken { flaw: self.flaw, inner, broker: self.broker.clone(), started: false, delivered: false, last: None }
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

    async fn recreate(&self) -> bool {
        self.broker.recreate("suite-events");
        true
    }

    async fn expire(&self) -> bool {
        self.broker.expire("suite-events");
        true
    }
}

struct Broken {
    flaw: Flaw,
    inner: Option<MemorySource>,
    broker: MemoryBroker,
    started: bool,
    delivered: bool,
    last: Option<SourcePosition>,
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
        self.inner.as_ref().expect("not closed").capabilities()
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        let flaw = self.flaw;
        if flaw == Flaw::Deaf && self.delivered {
            return std::future::pending().await;
        }
        loop {
            let mut event = self.inner().next().await?;
            if let SourceEvent::Batch(batch) = &event {
                self.delivered = true;
                self.last = Some(batch.position.clone());
            }
            match (&mut event, flaw) {
                (SourceEvent::Batch(_), Flaw::LosesWhatItTook) => tokio::task::yield_now().await,
                (SourceEvent::Batch(batch), Flaw::LosesHeaders) => {
                    for record in &mut batch.records {
                        if let SourceRecord::Event { event: received, .. } = record {
                            received.event.headers = Headers::default();
                        }
                    }
                }
                (SourceEvent::Assigned(partitions), Flaw::Eager) => {
                    for partition in partitions.iter() {
                        self.inner().start(partition, None).await?;
                    }
                }
                (SourceEvent::Batch(batch), Flaw::CommitsOnDelivery) => {
                    self.inner().commit(&batch.partition, &batch.position).await?;
                }
                (SourceEvent::Revoked(_), Flaw::GoesOnInSilence) => {
                    if let SourceEvent::Assigned(partitions) = self.inner().next().await? {
                        for partition in &partitions {
                            self.inner().rewind(partition).await?;
                        }
                    }
                    continue;
                }
                (SourceEvent::Batch(batch), Flaw::Reorders) => batch.records.reverse(),
                (SourceEvent::Batch(batch), Flaw::SkipsUndecodable) => {
                    batch.records.retain(|record| matches!(record, SourceRecord::Event { .. }));
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
        if self.flaw == Flaw::StartsOnce && std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        let after = after.filter(|_| self.flaw != Flaw::IgnoresPositions);
        if self.flaw == Flaw::WantsTheLastRecord && after.is_some() && self.broker.messages("suite-events").is_empty() {
            return Err(SourceError::new(SourceErrorKind::Recreated, "the last record is gone"));
        }
        match self.inner().start(partition, after).await {
            Err(error) if self.flaw == Flaw::TakesAnyPosition && error.kind() == SourceErrorKind::BadPosition => {
                self.inner().rewind(partition).await
            }
            Err(error) if self.flaw == Flaw::TakesAnyCommit && error.kind().is_lost_position() => {
                // Five were committed before the topic was created again, once.
                self.inner().start(partition, Some(&SourcePosition::from_text("5/1"))).await
            }
            Err(error) if self.flaw == Flaw::StartsAnywhere && error.kind().is_lost_position() => {
                self.inner().rewind(partition).await
            }
            result => result,
        }
    }

    async fn rewind(&mut self, partition: &Partition) -> Result<(), SourceError> {
        if self.flaw == Flaw::RewindsToTheCommit {
            return self.inner().start(partition, None).await;
        }
        self.inner().rewind(partition).await
    }

    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError> {
        if self.flaw == Flaw::ForgetsCommits {
            return Ok(());
        }
        match self.inner().commit(partition, position).await {
            Err(_) if self.flaw == Flaw::CommitsLate => Ok(()),
            result => result,
        }
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

    async fn lag(
        &mut self,
        partition: &Partition,
        position: Option<&SourcePosition>,
    ) -> Result<Option<u64>, SourceError> {
        let position = match self.flaw {
            Flaw::AlwaysAtTheEnd => return Ok(Some(0)),
            Flaw::CountsFromDelivery => self.last.clone(),
            _ => position.cloned(),
        };
        self.inner().lag(partition, position.as_ref()).await
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

#[tokio::test(start_paused = true)]
async fn a_source_that_starts_only_once_is_caught() {
    let harness = Harness::with(Flaw::StartsOnce);
    assert_caught(suite::a_partition_started_again_goes_there(&harness), "37 records").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_rewinds_to_the_commit_is_caught() {
    let harness = Harness::with(Flaw::RewindsToTheCommit);
    assert_caught(suite::a_rewind_delivers_everything_again(&harness), "5 records").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_starts_anywhere_is_caught() {
    let new = || Harness::with(Flaw::StartsAnywhere);
    let complaint = "as if nothing had happened";
    assert_caught(suite::a_recreated_partition_is_told_at_the_start(&new()), complaint).await;
    assert_caught(suite::a_shorter_partition_is_told_at_the_start(&new()), complaint).await;
    assert_caught(suite::events_that_expired_unread_are_told(&new()), complaint).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_goes_on_in_silence_is_caught() {
    let new = || Harness::with(Flaw::GoesOnInSilence);
    let complaint = "as if nothing had happened";
    assert_caught(suite::a_recreation_under_a_running_source_is_told(&new()), complaint).await;
    let complaint = "nothing was passed over";
    assert_caught(suite::events_that_expire_under_a_running_source_are_told(&new()), complaint).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_starts_behind_any_commit_is_caught() {
    let harness = Harness::with(Flaw::TakesAnyCommit);
    let case = suite::a_commit_before_a_recreation_is_no_place_to_start(&harness);
    assert_caught(case, "8 records").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_misses_what_retention_removed_rightly_is_caught() {
    let harness = Harness::with(Flaw::WantsTheLastRecord);
    assert_caught(suite::a_position_outlives_the_records_before_it(&harness), "nothing unread is gone").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_takes_late_commits_is_caught() {
    let harness = Harness::with(Flaw::CommitsLate);
    assert_caught(suite::a_closed_source_commits_nothing(&harness), "a late commit").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hears_nothing_new_is_caught() {
    let harness = Harness::with(Flaw::Deaf);
    assert_caught(suite::events_that_come_later_are_delivered(&harness), "2 records").await;
}

#[tokio::test]
async fn a_source_that_loses_headers_is_caught() {
    let harness = Harness::with(Flaw::LosesHeaders);
    assert_caught(suite::events_arrive_as_they_were_written(&harness), "left == right").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_loses_what_it_took_is_caught() {
    let harness = Harness::with(Flaw::LosesWhatItTook);
    assert_caught(suite::a_dropped_next_loses_nothing(&harness), "every event, though next is dropped").await;
}

#[tokio::test]
async fn a_source_that_takes_any_text_for_a_position_is_caught() {
    let harness = Harness::with(Flaw::TakesAnyPosition);
    assert_caught(suite::a_foreign_position_is_refused(&harness), "a foreign position").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_shows_no_lag_is_caught() {
    let harness = Harness::with(Flaw::AlwaysAtTheEnd);
    assert_caught(suite::the_lag_says_how_much_is_to_come(&harness), "three events from the start").await;
    let harness = Harness::with(Flaw::CountsFromDelivery);
    assert_caught(suite::the_lag_says_how_much_is_to_come(&harness), "three events from the start").await;
}

#[test]
fn every_case_catches_somebody() {
    let (_, tests) = include_str!("source.rs").split_once("source_suite!").expect("the tests");
    crate::testing::suite::assert_all_named(include_str!("../source/mod.rs"), &[tests]);
}
