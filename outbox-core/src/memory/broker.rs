//! A broker in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{broken_keys::BrokenKeys, lock, source::MemorySource};
use crate::{
    event::Lane,
    profile::Decoder,
    publisher::{
        Delivery, LaneStream, Message, Outcome, Permit, PublishError, PublishErrorKind, Publisher,
        PublisherCapabilities,
    },
    source::SourcePosition,
};

/// Topics in memory, each one ordered list of messages. Cloning is cheap and yields another handle on the same broker.
///
/// Topics come into being when they are written to or read from. Nothing is removed but by [`MemoryBroker::expire`] and
/// [`MemoryBroker::recreate`].
#[derive(Debug, Clone, Default)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    topics: Mutex<Topics>,
    /// Changes with every message, commit and source that goes.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
pub(super) struct Topics {
    pub(super) messages: HashMap<Arc<str>, Vec<Message>>,
    /// What happened to topics; none: nothing did.
    pub(super) pasts: HashMap<Arc<str>, Past>,
    pub(super) groups: HashMap<Arc<str>, Group>,
}

impl Topics {
    /// A topic's past, and how many messages it holds.
    pub(super) fn state(&self, topic: &str) -> (Past, usize) {
        (self.pasts.get(topic).copied().unwrap_or_default(), self.messages.get(topic).map_or(0, Vec::len))
    }
}

/// What a topic went through.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Past {
    /// How often it was created again.
    pub(super) recreated: u32,
    /// How many messages retention removed since.
    pub(super) expired: usize,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    /// Up to where the messages of a topic took effect.
    pub(super) committed: HashMap<Arc<str>, SourcePosition>,
    /// The source that owns the group's partitions.
    pub(super) owner: Option<uuid::Uuid>,
}

impl MemoryBroker {
    /// A publisher to this broker with room for 1,000 messages a lane.
    #[must_use]
    pub fn publisher(&self) -> MemoryPublisher {
        MemoryPublisher { broker: self.clone(), capacity: 1_000, message_bytes: usize::MAX }
    }

    /// A source of these topics, each of them one partition, named `memory/` and the topic. Of the sources of one group
    /// the one that asks first owns all partitions until it is closed or dropped.
    #[must_use]
    pub fn source<T: Into<Arc<str>>>(
        &self,
        group: impl Into<Arc<str>>,
        topics: impl IntoIterator<Item = T>,
        decoder: impl Decoder + 'static,
    ) -> MemorySource {
        let topics = topics.into_iter().map(Into::into).collect();
        MemorySource::new(self.clone(), group.into(), topics, Arc::new(decoder))
    }

    /// Writes a message as it is, for records that no relay would write.
    pub fn write(&self, message: Message) {
        self.topics().messages.entry(message.topic.clone()).or_default().push(message);
        self.shared.changed.send_replace(());
    }

    /// Removes all messages of a topic, as retention does: those written later do not take their places.
    pub fn expire(&self, topic: &str) {
        let mut topics = self.topics();
        let removed = topics.messages.get_mut(topic).map_or(0, |messages| std::mem::take(messages).len());
        topics.pasts.entry(topic.into()).or_default().expired += removed;
        drop(topics);
        self.notify();
    }

    /// Deletes a topic and creates it again under the same name, empty. What groups committed stays, as a commit under
    /// way would.
    pub fn recreate(&self, topic: &str) {
        let mut topics = self.topics();
        topics.messages.remove(topic);
        let past = topics.pasts.entry(topic.into()).or_default();
        *past = Past { recreated: past.recreated + 1, expired: 0 };
        drop(topics);
        self.notify();
    }

    /// All messages of a topic, in order.
    #[must_use]
    pub fn messages(&self, topic: &str) -> Vec<Message> {
        self.topics().messages.get(topic).cloned().unwrap_or_default()
    }

    /// Waits until a topic holds at least so many messages, and returns all of them. Cancel safe.
    pub async fn wait_for(&self, topic: &str, count: usize) -> Vec<Message> {
        let mut changed = self.changes();
        loop {
            changed.mark_unchanged();
            let messages = self.messages(topic);
            if messages.len() >= count {
                return messages;
            }
            let _closed_is_impossible = changed.changed().await;
        }
    }

    /// The messages of a key up to the one with this payload, once that is there.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) async fn written(&self, topic: &str, key: &bytes::Bytes, last: &bytes::Bytes) -> Vec<Message> {
        let mut count = 0;
        loop {
            let mut messages = self.wait_for(topic, count).await;
            count = messages.len() + 1;
            messages.retain(|message| message.key == key);
            if let Some(end) = messages.iter().position(|message| message.payload.as_ref() == Some(last)) {
                messages.truncate(end + 1);
                return messages;
            }
        }
    }

    pub(super) fn topics(&self) -> MutexGuard<'_, Topics> {
        lock(&self.shared.topics)
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    pub(super) fn notify(&self) {
        self.shared.changed.send_replace(());
    }
}

/// Writes to a [`MemoryBroker`].
#[derive(Debug, Clone)]
pub struct MemoryPublisher {
    broker: MemoryBroker,
    capacity: usize,
    message_bytes: usize,
}

impl MemoryPublisher {
    /// How many messages of a lane may be reserved, or sent and their outcome not taken. Default: 1,000. At least 1.
    #[must_use]
    pub fn with_capacity(mut self, messages: usize) -> Self {
        self.capacity = messages.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Refuses longer messages, with [`PublishErrorKind::Event`]. Default: no limit.
    #[must_use]
    pub fn with_message_bytes(mut self, bytes: usize) -> Self {
        self.message_bytes = bytes;
        self
    }
}

#[async_trait]
impl Publisher for MemoryPublisher {
    fn capabilities(&self) -> PublisherCapabilities {
        PublisherCapabilities::full()
    }

    async fn open(&self, _lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        let room = Arc::new(Semaphore::new(self.capacity));
        Ok(Box::new(MemoryStream { publisher: self.clone(), room, broken: BrokenKeys::default() }))
    }

    /// Everything accepted is reported at once, so there is nothing to wait for.
    async fn shut_down(&self, _grace: Duration) -> bool {
        true
    }
}

struct MemoryStream {
    publisher: MemoryPublisher,
    room: Arc<Semaphore>,
    broken: BrokenKeys,
}

#[async_trait]
impl LaneStream for MemoryStream {
    async fn reserve(&mut self, messages: usize, _bytes: usize) -> Result<Box<dyn Permit>, PublishError> {
        // More than there is room for at all is let through alone, or it would wait for ever.
        let wanted = messages.min(self.publisher.capacity).min(u32::MAX as usize) as u32;
        let room = self.room.clone().acquire_many_owned(wanted).await.map_err(|closed| {
            PublishError::new(PublishErrorKind::Configuration, "the stream's room is gone").with_source(closed)
        })?;
        Ok(Box::new(MemoryPermit { publisher: self.publisher.clone(), broken: self.broken.clone(), room }))
    }
}

struct MemoryPermit {
    publisher: MemoryPublisher,
    broken: BrokenKeys,
    room: OwnedSemaphorePermit,
}

impl Permit for MemoryPermit {
    fn send(self: Box<Self>, messages: Vec<Message>) -> Box<dyn Delivery> {
        let Self { publisher, broken, room } = *self;
        let outcomes = messages.into_iter().map(|message| {
            let outcome = if broken.contains(&message) {
                Outcome::Aborted
            } else if message.bytes() > publisher.message_bytes {
                let text = format!("{} bytes are more than the {} accepted", message.bytes(), publisher.message_bytes);
                Outcome::Failed(PublishError::new(PublishErrorKind::Event, text))
            } else {
                publisher.broker.write(message);
                return Outcome::Delivered;
            };
            broken.add(&message);
            outcome
        });
        let outcomes = outcomes.enumerate().collect();
        Box::new(MemoryDelivery { outcomes, room: Some(room) })
    }
}

struct MemoryDelivery {
    outcomes: Vec<(usize, Outcome)>,
    room: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl Delivery for MemoryDelivery {
    async fn next(&mut self) -> Vec<(usize, Outcome)> {
        self.room = None;
        std::mem::take(&mut self.outcomes)
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::testing::publisher::PublisherHarness;

    const LIMIT: usize = 1_000;

    struct Harness {
        broker: MemoryBroker,
        publisher: MemoryPublisher,
    }

    impl Harness {
        #[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
        async fn fresh() -> Self {
            let broker = MemoryBroker::default();
            let publisher = broker.publisher().with_capacity(50).with_message_bytes(LIMIT);
            Self { broker, publisher }
        }
    }

    #[async_trait]
    impl PublisherHarness for Harness {
        type Publisher = MemoryPublisher;

        fn publisher(&self) -> &MemoryPublisher {
            &self.publisher
        }

        fn topic(&self) -> Arc<str> {
            "suite-events".into()
        }

        async fn written(&self, key: &Bytes, last: &Bytes) -> Vec<Message> {
            self.broker.written(&self.topic(), key, last).await
        }

        fn capacity(&self) -> Option<usize> {
            Some(50)
        }

        fn poison(&self, key: &Bytes) -> Option<Message> {
            let payload = Some(vec![b'x'; LIMIT].into());
            Some(Message { topic: self.topic(), key: key.clone(), payload, headers: Vec::new() })
        }
    }

    crate::publisher_suite!(conformance, Harness::fresh);
}
