//! Consuming from a broker in memory.

mod position;

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;

use self::position::Position;
use super::{MemoryBroker, broker::Topics};
use crate::{
    profile::Decoder,
    publisher::Message,
    source::{
        Batch, EventSource, Partition, RawRecord, SourceCapabilities, SourceError, SourceErrorKind, SourceEvent,
        SourcePosition, SourceRecord,
    },
};

/// The longest batch, in records.
const BATCH: usize = 100;

/// Reads the topics of a [`MemoryBroker`] for a group. Made by [`MemoryBroker::source`].
///
/// A position is the number of messages before it, and which topic it was where the topic was created again.
pub struct MemorySource {
    broker: MemoryBroker,
    changed: watch::Receiver<()>,
    id: Uuid,
    group: Arc<str>,
    decoder: Arc<dyn Decoder>,
    state: Membership,
    partitions: Vec<Reading>,
    /// What is to be told first.
    news: VecDeque<SourceEvent>,
    /// Which partition is looked at first next time, so that a busy one does not starve the others.
    turn: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Membership {
    Waiting,
    Owner,
    Closed,
}

struct Reading {
    partition: Partition,
    topic: Arc<str>,
    /// Up to where messages were delivered; `None` before the partition is started.
    at: Option<Position>,
    /// Where it was started.
    started: Option<Position>,
    paused: bool,
}

impl std::fmt::Debug for MemorySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemorySource").field("group", &self.group).field("state", &self.state).finish_non_exhaustive()
    }
}

impl MemorySource {
    pub(super) fn new(broker: MemoryBroker, group: Arc<str>, topics: Vec<Arc<str>>, decoder: Arc<dyn Decoder>) -> Self {
        let partitions = topics.into_iter().map(Reading::new).collect();
        let (changed, id, state) = (broker.changes(), Uuid::now_v7(), Membership::Waiting);
        Self { broker, changed, id, group, decoder, state, partitions, news: VecDeque::new(), turn: 0 }
    }

    /// Takes the group's partitions when nobody owns them.
    fn take_over(&mut self) -> Option<SourceEvent> {
        let mut topics = self.broker.topics();
        let group = topics.groups.entry(self.group.clone()).or_default();
        if group.owner.is_some() {
            return None;
        }
        group.owner = Some(self.id);
        self.state = Membership::Owner;
        Some(SourceEvent::Assigned(self.partitions.iter().map(|reading| reading.partition.clone()).collect()))
    }

    fn take_batch(&mut self) -> Option<SourceEvent> {
        if let Some(event) = self.news.pop_front() {
            return Some(event);
        }
        let count = self.partitions.len();
        let topics = self.broker.topics();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let reading = &mut self.partitions[index];
            match reading.batch(&topics, &*self.decoder) {
                Ok(None) => {}
                Ok(Some(batch)) => {
                    self.turn = (index + 1) % count;
                    return Some(SourceEvent::Batch(batch));
                }
                Err(error) => {
                    tracing::warn!(%error, "the partition has to be started anew");
                    reading.at = None;
                    let partitions = vec![reading.partition.clone()];
                    self.news.push_back(SourceEvent::Assigned(partitions.clone()));
                    return Some(SourceEvent::Revoked(partitions));
                }
            }
        }
        None
    }

    fn reading(&mut self, partition: &Partition) -> Result<&mut Reading, SourceError> {
        let own = self.state == Membership::Owner;
        self.partitions.iter_mut().find(|reading| own && reading.partition == *partition).ok_or_else(|| {
            SourceError::new(SourceErrorKind::Revoked, format!("partition {partition} is not assigned to this source"))
        })
    }

    fn give_back(&mut self) {
        self.state = Membership::Closed;
        let mut topics = self.broker.topics();
        if let Some(group) = topics.groups.get_mut(&self.group)
            && group.owner == Some(self.id)
        {
            group.owner = None;
        }
        drop(topics);
        self.broker.notify();
    }
}

impl Drop for MemorySource {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[async_trait]
impl EventSource for MemorySource {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::new(true).with_checked_positions(true).with_rewinds(true)
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        loop {
            self.changed.mark_unchanged();
            let event = match self.state {
                Membership::Waiting => self.take_over(),
                Membership::Owner => self.take_batch(),
                Membership::Closed => {
                    return Err(SourceError::new(SourceErrorKind::Configuration, "the source was closed"));
                }
            };
            if let Some(event) = event {
                return Ok(event);
            }
            let _closed_is_impossible = self.changed.changed().await;
        }
    }

    async fn start(&mut self, partition: &Partition, after: Option<&SourcePosition>) -> Result<(), SourceError> {
        let reading = self.reading(partition)?;
        reading.at = None;
        let topic = reading.topic.clone();
        let topics = self.broker.topics();
        let (past, count) = topics.state(&topic);
        let committed = || topics.groups.get(&self.group).and_then(|group| group.committed.get(&topic));
        let at = match after.or_else(committed) {
            Some(position) => Position::parse(partition, position)?,
            None => Position::beginning(past),
        };
        at.index(partition, past, count)?;
        drop(topics);
        self.reading(partition)?.begin(at);
        Ok(())
    }

    async fn rewind(&mut self, partition: &Partition) -> Result<(), SourceError> {
        let topic = self.reading(partition)?.topic.clone();
        let (past, _) = self.broker.topics().state(&topic);
        self.reading(partition)?.begin(Position::beginning(past));
        Ok(())
    }

    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError> {
        let topic = self.reading(partition)?.topic.clone();
        Position::parse(partition, position)?;
        let mut topics = self.broker.topics();
        topics.groups.entry(self.group.clone()).or_default().committed.insert(topic, position.clone());
        Ok(())
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.reading(partition)?.paused = true;
        Ok(())
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.reading(partition)?.paused = false;
        Ok(())
    }

    async fn lag(
        &mut self,
        partition: &Partition,
        position: Option<&SourcePosition>,
    ) -> Result<Option<u64>, SourceError> {
        let reading = self.reading(partition)?;
        let (topic, started) = (reading.topic.clone(), reading.started);
        let (past, count) = self.broker.topics().state(&topic);
        let at = match position {
            Some(position) => Position::parse(partition, position)?,
            None => started.unwrap_or_else(|| Position::beginning(past)),
        };
        Ok(Some((count - at.index(partition, past, count)?) as u64))
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        self.give_back();
        Ok(())
    }
}

impl Reading {
    fn new(topic: Arc<str>) -> Self {
        Self { partition: Partition::new(format!("memory/{topic}")), topic, at: None, started: None, paused: false }
    }

    fn begin(&mut self, at: Position) {
        (self.at, self.started) = (Some(at), Some(at));
    }

    /// Errors: what was delivered has nothing to do with what is there now.
    fn batch(&mut self, topics: &Topics, decoder: &dyn Decoder) -> Result<Option<Batch>, SourceError> {
        let Some(at) = self.at.filter(|_| !self.paused) else { return Ok(None) };
        let (past, count) = topics.state(&self.topic);
        let index = at.index(&self.partition, past, count)?;
        let messages = topics.messages.get(&self.topic).and_then(|all| all.get(index..)).unwrap_or_default();
        if messages.is_empty() {
            return Ok(None);
        }
        let records: Vec<_> = messages
            .iter()
            .take(BATCH)
            .zip(at.offset..)
            .map(|(message, offset)| decode(message, decoder, offset as u64))
            .collect();
        let end = at.plus(records.len());
        self.at = Some(end);
        Ok(Some(Batch { partition: self.partition.clone(), records, position: end.into() }))
    }
}

fn decode(message: &Message, decoder: &dyn Decoder, offset: u64) -> SourceRecord {
    let Message { key, payload, headers, .. } = message;
    let raw = RawRecord { offset, key: Some(key.clone()), payload: payload.clone(), headers: headers.clone() };
    match decoder.decode(Some(key), payload.as_ref(), headers) {
        Ok(event) => SourceRecord::Event { event, raw: Some(raw) },
        Err(error) => SourceRecord::Undecodable { reason: crate::error::chain(&error), raw },
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        event::NewEvent,
        profile::{Profile, SeedEnvelope},
        testing::{Sequencer, source::SourceHarness},
    };

    #[derive(Default)]
    struct Harness {
        broker: MemoryBroker,
        sequencer: Sequencer,
    }

    impl Harness {
        #[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
        async fn fresh() -> Self {
            Self::default()
        }
    }

    #[async_trait]
    impl SourceHarness for Harness {
        type Source = MemorySource;

        async fn open(&self) -> MemorySource {
            self.broker.source("suite", ["suite-events"], SeedEnvelope)
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

    crate::source_suite!(conformance, Harness::fresh);

    #[tokio::test]
    async fn topics_take_turns() {
        let harness = Harness::default();
        let message = |topic: &str| Message { topic: topic.into(), key: Bytes::new(), payload: None, headers: vec![] };
        for _ in 0..3 * BATCH {
            harness.broker.write(message("busy"));
        }
        harness.broker.write(message("quiet"));
        let mut source = harness.broker.source("suite", ["busy", "quiet"], SeedEnvelope);
        let SourceEvent::Assigned(partitions) = source.next().await.expect("next") else { panic!("not assigned") };
        for partition in &partitions {
            source.start(partition, None).await.expect("start");
        }
        let mut order = Vec::new();
        for _ in 0..3 {
            let SourceEvent::Batch(batch) = source.next().await.expect("next") else { panic!("no batch") };
            order.push(batch.partition.as_str().to_owned());
        }
        assert_eq!(order, ["memory/busy", "memory/quiet", "memory/busy"]);
    }
}
