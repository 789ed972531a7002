//! Topics: which ones a publisher may write to, creating them, and their limits.

mod create;
pub(crate) mod lookup;

use outbox_core::publisher::{PublishError, PublishErrorKind};
use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, NewTopic, TopicReplication},
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, KafkaResult},
};

pub(crate) use create::ensure;

use crate::client_log::ClientLog;

/// What to do about a topic that does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicPolicy {
    /// Somebody else creates topics. Messages for one that does not exist fail with [`PublishErrorKind::Environment`]:
    /// a relay pauses their lanes and tries again. The default, because a topic that springs up from a misspelt name has
    /// the wrong settings and no readers.
    #[default]
    Existing,
    /// The publisher creates it when it is first written to. `-1` for either number: the broker's default.
    Create {
        /// Over how many partitions its messages are spread.
        partitions: i32,
        /// How many brokers keep each partition.
        replication: i32,
    },
    /// The broker creates it, if its `auto.create.topics.enable` says so. Where that is off, messages for a topic that
    /// does not exist fail with [`PublishErrorKind::Environment`] after 30 seconds
    /// (`topic.metadata.propagation.max.ms`).
    Broker,
}

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    name: String,
    partitions: i32,
    replication: i32,
    settings: Vec<(String, String)>,
}

impl TopicSpec {
    /// A topic with so many partitions, each kept by so many brokers. `-1` for either: the broker's default.
    #[must_use]
    pub fn new(name: impl Into<String>, partitions: i32, replication: i32) -> Self {
        Self { name: name.into(), partitions, replication, settings: Vec::new() }
    }

    /// Sets a setting of the topic, such as `max.message.bytes`, where it is created.
    #[must_use]
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn new_topic(&self) -> NewTopic<'_> {
        let topic = NewTopic::new(&self.name, self.partitions, TopicReplication::Fixed(self.replication));
        self.settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
    }
}

pub(crate) fn admin(config: &ClientConfig) -> KafkaResult<AdminClient<AdminLog>> {
    AdminClient::from_config_and_context(config, AdminLog::default())
}

fn environment(message: impl Into<std::borrow::Cow<'static, str>>) -> PublishError {
    PublishError::new(PublishErrorKind::Environment, message)
}

#[derive(Default)]
pub(crate) struct AdminLog(ClientLog);

impl ClientContext for AdminLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.warn(&error.to_string(), reason);
    }
}
