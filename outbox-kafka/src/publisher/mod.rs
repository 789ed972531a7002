//! Messages to Kafka, in order per key, acknowledged by all replicas in sync.

mod builder;
mod capacity;
mod catalogue;
mod delivery;
mod failure;
mod flights;
mod isolated;
mod producer;
mod reach;
mod reports;
mod seat;
mod shared;
mod stream;
mod warmth;
mod wire;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use outbox_core::{
    event::Lane,
    publisher::{LaneStream, PublishError, Publisher, PublisherCapabilities},
};

pub use self::builder::KafkaPublisherBuilder;
pub(crate) use self::{catalogue::Found, failure::advice};
use self::{isolated::IsolatedStream, shared::Shared, stream::KafkaStream};
use crate::topics::{self, TopicSpec};
#[cfg(doc)]
use {crate::topics::TopicPolicy, outbox_core::publisher::PublishErrorKind};

/// Sends messages to Kafka.
///
/// Clones share one idempotent producer, created on first use. It keeps the order of a key also when a message fails:
/// the producer is then purged and replaced before anything else is sent. What was refused is sent again through a
/// second, isolating producer ([`Publisher::open_isolated`]).
///
/// # What is kept
/// * Messages of one key go to one partition, the one a Java client would choose, in order. A topic that gains
///   partitions breaks this: keys move.
/// * Until a partition has acknowledged something to the producer, one message of a key is under way at a time: of a
///   producer that it knows nothing of, a broker would write the second though it refused the first. Keys do not keep
///   their order among each other.
/// * [`outbox_core::publisher::Outcome::Delivered`] means that all replicas in sync have it.
/// * Once a message failed, its stream writes nothing more of that key; other keys go on. A stream opened when everything
///   was reported writes it again, behind all of the old one.
///
/// # When a message is refused
/// The broker refuses batches. The first message of each key in a refused batch is reported as
/// [`PublishErrorKind::Suspect`], or as [`PublishErrorKind::Event`] if it was alone in the batch, and those behind it as
/// aborted. What else was on its way is given up with [`PublishErrorKind::Environment`], and some of it may have been
/// written. A message larger than the topic's `max.message.bytes`, where that can be read, or than the producer's own
/// `message.max.bytes`, is [`PublishErrorKind::Event`] and costs nobody else anything. Through an isolated stream a
/// refusal is [`PublishErrorKind::Event`] always.
///
/// # Topics
/// A topic is looked up when it is first written to; its messages wait for that, those of other topics do not. A topic
/// that does not exist, or may not be written to, fails its messages with [`PublishErrorKind::Environment`]; see
/// [`TopicPolicy`].
///
/// # While no broker can be reached
/// What was accepted waits; [`LaneStream::reserve`] fails with [`PublishErrorKind::Environment`] after up to five
/// seconds.
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
        topics::ensure(&self.shared.admin, topics).await?;
        join_all(topics.iter().map(|topic| self.shared.learn(topic.name()))).await;
        Ok(())
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

    /// Creates nothing: the isolating producer comes with the first reservation, and goes when it was not needed for half
    /// a minute. It writes without idempotence, one message at a time per lane, so that a refusal touches nothing else;
    /// a message whose acknowledgement was lost may be written twice.
    async fn open_isolated(&self, _lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        Ok(Box::new(IsolatedStream::new(self.shared.clone())))
    }

    async fn shut_down(&self, grace: Duration) -> bool {
        self.shared.shut_down(grace).await
    }
}
