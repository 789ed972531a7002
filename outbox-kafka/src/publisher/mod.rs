//! Messages to Kafka, in order per key, acknowledged by all replicas in sync.

mod capacity;
mod delivery;
mod failure;
mod producer;
mod reach;
mod shared;
mod stream;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use outbox_core::{
    event::Lane,
    publisher::{LaneStream, PublishError, PublishErrorKind, Publisher, PublisherCapabilities},
};

use self::{capacity::Capacity, shared::Shared, stream::KafkaStream};
use crate::{
    settings::{PRODUCER_GUARDS, Settings},
    topics::{self, TopicSpec},
};

/// Sends messages to Kafka.
///
/// Clones share one idempotent producer, created on first use. It keeps the order of a key also when a message fails:
/// the producer is then purged and replaced before anything else is sent.
///
/// # What is kept
/// * Messages of one key go to one partition, the one a Java client would choose, in order. A topic that gains
///   partitions breaks this: keys move.
/// * [`outbox_core::publisher::Outcome::Delivered`] means that all replicas in sync have it.
/// * Once a message failed, its stream writes nothing more of that key; other keys go on. A stream opened when everything
///   was reported writes it again, behind all of the old one.
///
/// # When a message is refused
/// The broker refuses batches. The first message of each key in a refused batch is reported as
/// [`PublishErrorKind::Suspect`], or as [`PublishErrorKind::Event`] if it was alone in the batch, and those behind it as
/// aborted. What else was on its way is given up with [`PublishErrorKind::Environment`], and some of it may have been
/// written. A message larger than the producer's own `message.max.bytes` is [`PublishErrorKind::Event`] and costs nobody
/// else anything.
///
/// # While no broker can be reached
/// What was accepted waits; [`LaneStream::reserve`] fails with [`PublishErrorKind::Environment`] after up to five
/// seconds. Messages for a topic that does not exist fail after 30 seconds (`topic.metadata.propagation.max.ms`), later
/// ones at once.
///
/// Dropping the last clone and stream gives up what is on its way; call [`Publisher::shut_down`] first. A publisher may
/// be used again after that.
#[derive(Clone)]
pub struct KafkaPublisher {
    shared: Arc<Shared>,
    capabilities: PublisherCapabilities,
}

impl KafkaPublisher {
    /// A publisher to the cluster that these brokers belong to: `host:port`, several with commas between.
    #[must_use]
    pub fn builder(servers: impl Into<String>) -> KafkaPublisherBuilder {
        KafkaPublisherBuilder::new(servers.into())
    }

    /// Asks the cluster whether it is there; creates the producer if there is none.
    ///
    /// # Errors
    /// [`PublishErrorKind::Environment`] when it does not answer within `timeout`, naming the address;
    /// [`PublishErrorKind::Configuration`] when no producer can be created with these settings.
    pub async fn ping(&self, timeout: Duration) -> Result<(), PublishError> {
        self.shared.ping(timeout).await
    }

    /// Creates the topics that do not exist and waits until each can be written to, at most a minute. A topic that
    /// exists is left as it is, with a warning when its number of partitions is another.
    ///
    /// # Errors
    /// [`PublishErrorKind::Environment`] when the cluster does not answer or the topics do not become ready;
    /// [`PublishErrorKind::Configuration`] when a topic is refused, saying why.
    pub async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), PublishError> {
        topics::ensure(&self.shared.config, topics).await
    }
}

impl fmt::Debug for KafkaPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaPublisher").field("servers", &self.shared.servers).finish_non_exhaustive()
    }
}

#[async_trait]
impl Publisher for KafkaPublisher {
    fn capabilities(&self) -> PublisherCapabilities {
        self.capabilities
    }

    /// Creates the producer if there is none. Does not wait for a broker.
    async fn open(&self, _lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        self.shared.ready().await?;
        Ok(Box::new(KafkaStream::new(self.shared.clone())))
    }

    async fn shut_down(&self, grace: Duration) -> bool {
        self.shared.shut_down(grace).await
    }
}

/// Configures a [`KafkaPublisher`].
///
/// Defaults that may be changed with [`KafkaPublisherBuilder::setting`]: `linger.ms=2`, `batch.size=1000000`,
/// `message.max.bytes=8388608` (the broker decides), `reconnect.backoff.max.ms=500`, `partitioner=murmur2_random`;
/// everything else as in librdkafka.
#[derive(Debug, Clone)]
pub struct KafkaPublisherBuilder {
    servers: String,
    settings: Settings,
    messages: u32,
    bytes: u32,
}

impl KafkaPublisherBuilder {
    fn new(servers: String) -> Self {
        let mut settings = Settings::new(
            PRODUCER_GUARDS,
            &[
                ("acks", "all"),
                ("enable.idempotence", "true"),
                ("enable.gapless.guarantee", "true"),
                ("message.timeout.ms", "0"),
                ("partitioner", "murmur2_random"),
                ("linger.ms", "2"),
                ("batch.size", "1000000"),
                ("message.max.bytes", "8388608"),
                ("reconnect.backoff.max.ms", "500"),
                // Our own bound comes first, so that the queue is never full: a full queue would tear a batch apart.
                ("queue.buffering.max.messages", "0"),
                ("queue.buffering.max.kbytes", "2147483647"),
            ],
        );
        settings.set("bootstrap.servers", &servers);
        Self { servers, settings, messages: 20_000, bytes: 64 * 1024 * 1024 }
    }

    /// Sets any setting of librdkafka. `batch.size` should not exceed the smallest `max.message.bytes` of the topics
    /// used: a batch that does is refused as a whole.
    ///
    /// Those that would lose or reorder messages are refused by [`KafkaPublisherBuilder::build`]: `acks` other than
    /// all, `enable.idempotence` or `enable.gapless.guarantee` other than true, `message.timeout.ms` other than 0,
    /// partitioners that do not go by the key, `queuing.strategy` other than fifo, `transactional.id`.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.set(name, value);
        self
    }

    /// Accepts a value of this setting that loses or reorders messages. Without idempotence or the gapless guarantee
    /// the publisher declares that it does not keep order after a failure.
    #[must_use]
    pub fn allow_dangerous(mut self, name: impl Into<String>) -> Self {
        self.settings.allow(name);
        self
    }

    /// How much may be on its way, over all lanes. Defaults: 20,000 messages, 64 MiB of keys, bodies and headers. A
    /// single batch that exceeds it is sent when nothing else is on its way.
    #[must_use]
    pub fn in_flight(mut self, messages: u32, bytes: u32) -> Self {
        (self.messages, self.bytes) = (messages, bytes);
        self
    }

    /// Checks the settings. Connects to nothing.
    ///
    /// # Errors
    /// [`PublishErrorKind::Configuration`] naming a setting that is unknown, has no such value, or is dangerous.
    pub fn build(self) -> Result<KafkaPublisher, PublishError> {
        let config =
            self.settings.client_config().map_err(|why| PublishError::new(PublishErrorKind::Configuration, why))?;
        let ordered = ["enable.idempotence", "enable.gapless.guarantee", "message.timeout.ms", "partitioner"];
        let keeps_order = ordered.iter().all(|name| self.settings.is_safe(name));
        Ok(KafkaPublisher {
            shared: Arc::new(Shared::new(self.servers, config, Capacity::new(self.messages, self.bytes))),
            capabilities: PublisherCapabilities::full().with_keeps_order_after_failure(keeps_order),
        })
    }
}
