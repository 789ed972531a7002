//! Reading one record that was read before, to see whether it is still the same.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode as Code,
};

use super::inbox::Raw;
use crate::client_log::ClientLog;

/// A client of its own, made when it is first needed: the member's partitions stay where they are. It never joins the
/// group, and uses its name only because a consumer has to have one.
pub(crate) struct Lookback {
    config: ClientConfig,
    client: Mutex<Option<BaseConsumer<Context>>>,
}

impl fmt::Debug for Lookback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookback").finish_non_exhaustive()
    }
}

impl Lookback {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        let mut config = config.clone();
        config.remove("group.instance.id");
        config.remove("debug");
        config.set_log_level(RDKafkaLogLevel::Info);
        let smallest = [
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("fetch.wait.max.ms", "10"),
            ("queued.min.messages", "1"),
            // A broker answers with at least one batch, however large.
            ("fetch.message.max.bytes", "1"),
        ];
        for (name, value) in smallest {
            config.set(name, value);
        }
        Self { config, client: Mutex::new(None) }
    }

    /// The record at this offset; `None` when there is none, though there may be later ones. Blocks.
    pub(crate) fn record(
        &self,
        topic: &str,
        number: i32,
        offset: i64,
        patience: Duration,
    ) -> Result<Option<Raw>, KafkaError> {
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match kept.take() {
            Some(client) => client,
            None => BaseConsumer::from_config_and_context(&self.config, Context::default())?,
        };
        let found = look(&client, topic, number, offset, patience)?;
        // One that failed is not used again.
        *kept = Some(client);
        Ok(found)
    }

    /// Whether the topic keeps only the last record of each key, so that a record may rightly be gone. Blocks.
    pub(crate) fn is_compacted(&self, topic: &str, patience: Duration) -> Result<bool, KafkaError> {
        let admin: AdminClient<Mute> = AdminClient::from_config_and_context(&self.config, Mute)?;
        let options = AdminOptions::new().request_timeout(Some(patience));
        let topic = ResourceSpecifier::Topic(topic);
        let described = admin.describe_configs([&topic], &options);
        let resources = tokio::runtime::Handle::current().block_on(described)?;
        let mut compacted = false;
        for resource in resources {
            let resource = resource.map_err(KafkaError::AdminOp)?;
            let policy = resource.get("cleanup.policy").and_then(|entry| entry.value.as_deref());
            compacted |= policy.is_some_and(|policy| policy.contains("compact"));
        }
        Ok(compacted)
    }
}

fn look(
    client: &BaseConsumer<Context>,
    topic: &str,
    number: i32,
    offset: i64,
    patience: Duration,
) -> Result<Option<Raw>, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, number, Offset::Offset(offset))?;
    client.assign(&list)?;
    let deadline = Instant::now() + patience;
    let mut trouble = KafkaError::MessageConsumption(Code::OperationTimedOut);
    let found = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(trouble);
        }
        match client.poll(left) {
            Some(Ok(record)) if record.topic() == topic && record.partition() == number => {
                break (record.offset() == offset).then(|| Raw::of(&record));
            }
            Some(Err(KafkaError::PartitionEOF(at))) if at == number => break None,
            // The partition moved on meanwhile; whoever asks looks at its range again.
            Some(Err(error)) if error.rdkafka_error_code() == Some(Code::AutoOffsetReset) => return Err(error),
            // Connections that break are mended; what lasts is told at the end.
            Some(Err(error)) => trouble = error,
            Some(Ok(_)) | None => {}
        }
    };
    client.unassign()?;
    Ok(found)
}

/// Would only say that settings of consumers mean nothing to it.
struct Mute;

impl ClientContext for Mute {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

#[derive(Default)]
struct Context(ClientLog);

impl ConsumerContext for Context {}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.warn(&error.to_string(), reason);
    }
}
