//! How a publisher is configured.

use std::sync::Arc;

use outbox_core::publisher::{PublishError, PublishErrorKind, PublisherCapabilities};

use super::{
    KafkaPublisher,
    capacity::Capacity,
    shared::{Clients, Shared},
};
use crate::{
    settings::{PRODUCER_GUARDS, Settings},
    topics::TopicPolicy,
};

/// Configures a [`KafkaPublisher`].
///
/// Defaults that may be changed with [`KafkaPublisherBuilder::setting`]: `linger.ms=0`, `batch.size=1000000`,
/// `message.max.bytes=8388608` (the topic decides), `reconnect.backoff.max.ms=500`, `partitioner=murmur2_random`;
/// everything else as in librdkafka.
#[derive(Debug, Clone)]
pub struct KafkaPublisherBuilder {
    servers: String,
    settings: Settings,
    policy: TopicPolicy,
    messages: u32,
    bytes: u32,
}

impl KafkaPublisherBuilder {
    pub(super) fn new(servers: String) -> Self {
        let mut settings = Settings::new(
            PRODUCER_GUARDS,
            &[
                ("acks", "all"),
                ("enable.idempotence", "true"),
                ("enable.gapless.guarantee", "true"),
                ("message.timeout.ms", "0"),
                ("partitioner", "murmur2_random"),
                ("linger.ms", "0"),
                ("batch.size", "1000000"),
                ("message.max.bytes", "8388608"),
                ("reconnect.backoff.max.ms", "500"),
            ],
        );
        settings.set("bootstrap.servers", &servers);
        Self { servers, settings, policy: TopicPolicy::default(), messages: 20_000, bytes: 64 * 1024 * 1024 }
    }

    /// Sets any setting of librdkafka.
    ///
    /// `batch.size` is an upper bound: it is made smaller for a topic that takes only smaller batches.
    /// `queue.buffering.max.messages` and `queue.buffering.max.kbytes` bound what is on its way as
    /// [`KafkaPublisherBuilder::in_flight`] does, and the smaller of the two counts: librdkafka's own full queue would
    /// tear a batch apart.
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

    /// What to do about a topic that does not exist. Default: [`TopicPolicy::Existing`].
    #[must_use]
    pub fn topics(mut self, policy: TopicPolicy) -> Self {
        self.policy = policy;
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
    pub fn build(mut self) -> Result<KafkaPublisher, PublishError> {
        let ordered = ["enable.idempotence", "enable.gapless.guarantee", "message.timeout.ms", "partitioner"];
        let keeps_order = ordered.iter().all(|name| self.settings.is_safe(name));
        // The bound is kept here, and librdkafka's queue is never full.
        self.messages = self.messages.min(self.own_bound("queue.buffering.max.messages", "0", 1)?);
        self.bytes = self.bytes.min(self.own_bound("queue.buffering.max.kbytes", "2147483647", 1024)?);
        if self.settings.value("allow.auto.create.topics").is_none() {
            self.settings.set("allow.auto.create.topics", (self.policy == TopicPolicy::Broker).to_string());
        }
        let refused = |why| PublishError::new(PublishErrorKind::Configuration, why);
        let main = self.settings.client_config().map_err(refused)?;
        let isolated = self.settings.isolating().client_config().map_err(refused)?;
        let clients = Clients { admin: isolated.clone(), main, isolated };
        let capacity = Capacity::new(self.messages, self.bytes);
        Ok(KafkaPublisher {
            shared: Arc::new(Shared::new(self.servers, clients, self.policy, capacity)),
            capabilities: PublisherCapabilities::full().with_keeps_order_after_failure(keeps_order),
        })
    }

    /// Takes a bound over from librdkafka, in units of so many; it gets `unbounded` instead.
    fn own_bound(&mut self, name: &str, unbounded: &str, unit: u32) -> Result<u32, PublishError> {
        let set = self.settings.value(name).map(str::to_owned);
        let bound = match set.as_deref() {
            None | Some("0") => u32::MAX,
            Some(text) => {
                let number: u32 = text.parse().map_err(|error| {
                    let message = format!("the setting {name} is refused: {text:?} is not a number");
                    PublishError::new(PublishErrorKind::Configuration, message).with_source(error)
                })?;
                number.saturating_mul(unit)
            }
        };
        self.settings.set(name, unbounded);
        Ok(bound)
    }
}
