//! Events from Kafka, as a member of a consumer group.

mod group;
mod inbox;
mod offsets;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use outbox_core::{
    error::chain,
    profile::{Decoder, SeedEnvelope},
    source::{
        Batch, EventSource, Partition, SourceCapabilities, SourceError, SourceErrorKind, SourceEvent, SourcePosition,
        SourceRecord, Undecodable,
    },
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer, StreamConsumer},
    error::KafkaError,
    types::RDKafkaErrorCode as Code,
};

use tokio::task::{JoinError, JoinHandle};

use self::{
    group::{Member, Membership},
    inbox::{Raw, Taken},
};
use crate::settings::{CONSUMER_GUARDS, Settings};

/// How long one request to the broker may take.
const REQUEST: Duration = Duration::from_secs(10);

/// Reads events from topics, sharing their partitions with the other members of a consumer group.
///
/// Partitions are named `cluster id/topic/number`. A [`SourcePosition`] is **the offset of the next record to read**,
/// decimal, as Kafka commits it: the position of a batch is its last record's offset plus one.
///
/// # What it does
/// * It joins its group with the first [`EventSource::next`] and then polls in a task of its own: a slow handler does not
///   cost the membership, and up to eight batches or 8 MiB per partition are received ahead, roughly.
/// * After [`SourceEvent::Revoked`] nothing more of these partitions is delivered; they may belong to another member
///   already.
/// * A position outside of the partition, as of a topic that was created again, is refused by [`EventSource::start`]
///   with [`SourceErrorKind::BadPosition`] instead of being read from another place in silence.
/// * [`EventSource::commit`] waits for the broker's answer.
///
/// # While no broker can be reached
/// `next` fails with [`SourceErrorKind::Unavailable`] until the cluster was heard of for the first time, after up to
/// five seconds each. Later it waits: librdkafka reconnects by itself, and says so in the log.
///
/// Dropping a source leaves the group in the background; [`EventSource::close`] waits for it.
pub struct KafkaSource {
    config: ClientConfig,
    topics: Vec<String>,
    decoder: Arc<dyn Decoder>,
    batch: usize,
    from_end: bool,
    joining: Option<JoinHandle<Result<Membership, SourceError>>>,
    membership: Option<Membership>,
}

impl KafkaSource {
    /// A source that reads `topics` as a member of `group`, from the cluster that these brokers belong to: `host:port`,
    /// several with commas between.
    #[must_use]
    pub fn builder<T: Into<String>>(
        servers: impl Into<String>,
        group: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
    ) -> KafkaSourceBuilder {
        KafkaSourceBuilder::new(servers.into(), group.into(), topics.into_iter().map(Into::into).collect())
    }

    /// Joins the group if that is still to be done, and again after the polling task ended. Cancel safe: whoever asks
    /// next goes on waiting for the same attempt.
    async fn joined(&mut self) -> Result<&Membership, SourceError> {
        if self.membership.as_ref().is_some_and(|membership| membership.inbox.is_over()) {
            self.leave().await;
        }
        if let Some(membership) = self.membership.take() {
            return Ok(self.membership.insert(membership));
        }
        let joining = self.joining.get_or_insert_with(|| {
            let (config, topics, batch) = (self.config.clone(), self.topics.clone(), self.batch);
            tokio::task::spawn_blocking(move || Membership::join(&config, &topics, batch))
        });
        let joined = joining.await;
        self.joining = None;
        Ok(self.membership.insert(joined.unwrap_or_else(|error| Err(interrupted(error)))?))
    }

    fn member(&self) -> Result<&Membership, SourceError> {
        self.membership.as_ref().ok_or_else(|| {
            SourceError::new(SourceErrorKind::Revoked, "the source is not a member of its group; call next first")
        })
    }

    /// Leaves the group, also when this future is dropped.
    async fn leave(&mut self) {
        if let Some(joining) = &mut self.joining {
            self.membership = joining.await.ok().and_then(Result::ok);
            self.joining = None;
        }
        if let Some(membership) = self.membership.take() {
            // A task that panicked has left as well.
            let _left = membership.leave().await;
        }
    }

    fn decode(&self, partition: Partition, topic: &str, number: i32, records: Vec<Raw>) -> Batch {
        let position = offsets::behind(records.last().map_or(-1, |record| record.offset));
        let decode = |raw: Raw| {
            let decoded = match &raw.headers {
                Some(headers) => {
                    self.decoder.decode(raw.key.as_ref(), raw.payload.as_ref(), headers).map_err(|e| chain(&e))
                }
                None => Err("the name of a header is not UTF-8".to_owned()),
            };
            match decoded {
                Ok(event) => SourceRecord::Event(event),
                Err(reason) => SourceRecord::Undecodable(Undecodable {
                    place: format!("{topic}/{number}@{}", raw.offset),
                    reason,
                    key: raw.key,
                    payload: raw.payload,
                    headers: raw.headers.unwrap_or_default(),
                }),
            }
        };
        Batch { partition, records: records.into_iter().map(decode).collect(), position }
    }
}

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSource").field("topics", &self.topics).field("batch", &self.batch).finish_non_exhaustive()
    }
}

#[async_trait]
impl EventSource for KafkaSource {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::new(true)
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        let inbox = self.joined().await?.inbox.clone();
        loop {
            match inbox.take() {
                Some(Ok(Taken::Event(event))) => return Ok(event),
                Some(Ok(Taken::Records { partition, topic, number, records })) => {
                    return Ok(SourceEvent::Batch(self.decode(partition, &topic, number, records)));
                }
                Some(Err(error)) => return Err(error),
                None if inbox.is_over() => {
                    let message = "the consumer ended unexpectedly; call next again";
                    return Err(SourceError::new(SourceErrorKind::Unavailable, message));
                }
                None => inbox.news.notified().await,
            }
        }
    }

    async fn start(&mut self, partition: &Partition, after: Option<&SourcePosition>) -> Result<(), SourceError> {
        let inbox = self.member()?.inbox.clone();
        let (topic, number) = inbox.find(partition)?;
        let after = after.map(|position| offsets::parse(partition, position)).transpose()?;
        let assignment = inbox.stop(partition)?;
        // Only a paused partition has no record on its way that would end up behind the seek.
        loop {
            let settled = inbox.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if inbox.is_paused(partition)? {
                break;
            }
            settled.await;
        }
        let consumer = self.member()?.consumer().ok_or_else(|| inbox::revoked(partition))?;
        let (named, assigned, from_end) = (partition.clone(), inbox.clone(), self.from_end);
        blocking(move || {
            let place = Place { consumer: &consumer, partition: &named, topic: &topic, number };
            let offset = place.beginning(after, from_end)?;
            place.seek(offset, || assigned.find(&named).map(drop))
        })
        .await?;
        inbox.start(partition, assignment)
    }

    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError> {
        let membership = self.member()?;
        let consumer = membership.consumer().ok_or_else(|| inbox::revoked(partition))?;
        let (topic, number) = membership.inbox.find(partition)?;
        let offset = offsets::parse(partition, position)?;
        let partition = partition.clone();
        blocking(move || Place { consumer: &consumer, partition: &partition, topic: &topic, number }.commit(offset))
            .await
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.member()?.inbox.hold(partition, true)
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.member()?.inbox.hold(partition, false)
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        self.leave().await;
        Ok(())
    }
}

/// A partition and the consumer that asks the broker about it. Its functions block.
struct Place<'a> {
    consumer: &'a StreamConsumer<Member>,
    partition: &'a Partition,
    topic: &'a str,
    number: i32,
}

impl Place<'_> {
    /// Where to begin: at the position given, else where the group committed, else at the configured end.
    fn beginning(&self, after: Option<i64>, from_end: bool) -> Result<Offset, SourceError> {
        if let Some(offset) = after {
            let range = self.consumer.fetch_watermarks(self.topic, self.number, REQUEST);
            let (low, high) = range.map_err(|error| self.unavailable("its range is not known").with_source(error))?;
            offsets::check_range(self.partition, offset, low, high)?;
            return Ok(Offset::Offset(offset));
        }
        let committed = self.consumer.committed_offsets(self.list(Offset::Invalid)?, REQUEST);
        let committed =
            committed.map_err(|error| self.unavailable("what was committed is not known").with_source(error))?;
        let offset = committed.find_partition(self.topic, self.number).map(|found| found.offset());
        Ok(match offset {
            Some(Offset::Offset(offset)) => Offset::Offset(offset),
            _ if from_end => Offset::End,
            _ => Offset::Beginning,
        })
    }

    /// Just after the assignment librdkafka can refuse to seek, until it has begun to fetch; nothing signals that, so it
    /// is tried again while `assigned` holds.
    fn seek(&self, offset: Offset, assigned: impl Fn() -> Result<(), SourceError>) -> Result<(), SourceError> {
        let deadline = Instant::now() + REQUEST;
        loop {
            assigned()?;
            match self.consumer.seek(self.topic, self.number, offset, REQUEST) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(self.unavailable("it could not be positioned").with_source(error));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn commit(&self, offset: i64) -> Result<(), SourceError> {
        let committed = self.consumer.commit(&self.list(Offset::Offset(offset))?, CommitMode::Sync);
        committed.map_err(|error| {
            let refused = match error.rdkafka_error_code() {
                Some(
                    Code::IllegalGeneration
                    | Code::UnknownMemberId
                    | Code::FencedInstanceId
                    | Code::AssignmentLost
                    | Code::UnknownPartition,
                ) => inbox::revoked(self.partition),
                Some(Code::GroupAuthorizationFailed) => SourceError::new(
                    SourceErrorKind::Configuration,
                    "committing for the group is not allowed; grant it",
                ),
                _ => self.unavailable("the position was not committed"),
            };
            refused.with_source(error)
        })
    }

    fn list(&self, offset: Offset) -> Result<TopicPartitionList, SourceError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(self.topic, self.number, offset)
            .map_err(|error: KafkaError| self.unavailable("the offset is out of range").with_source(error))?;
        Ok(list)
    }

    fn unavailable(&self, what: &str) -> SourceError {
        SourceError::new(SourceErrorKind::Unavailable, format!("{}: {what}; try again", self.partition))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(interrupted(error)))
}

fn interrupted(error: JoinError) -> SourceError {
    SourceError::new(SourceErrorKind::Unavailable, "the request was interrupted; try again").with_source(error)
}

/// Configures a [`KafkaSource`].
///
/// Defaults that may be changed with [`KafkaSourceBuilder::setting`]: `auto.offset.reset=earliest`,
/// `partition.assignment.strategy=cooperative-sticky`, `session.timeout.ms=45000`, `fetch.wait.max.ms=100`, `reconnect.backoff.max.ms=500`,
/// `topic.metadata.refresh.interval.ms=30000`; everything else as in librdkafka.
#[derive(Clone)]
pub struct KafkaSourceBuilder {
    settings: Settings,
    topics: Vec<String>,
    decoder: Arc<dyn Decoder>,
    batch: usize,
}

impl KafkaSourceBuilder {
    fn new(servers: String, group: String, topics: Vec<String>) -> Self {
        let settings = Settings::new(
            CONSUMER_GUARDS,
            &[
                ("bootstrap.servers", servers.as_str()),
                ("group.id", group.as_str()),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "earliest"),
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("session.timeout.ms", "45000"),
                ("fetch.wait.max.ms", "100"),
                ("reconnect.backoff.max.ms", "500"),
                ("topic.metadata.refresh.interval.ms", "30000"),
            ],
        );
        Self { settings, topics, decoder: Arc::new(SeedEnvelope), batch: 500 }
    }

    /// Decodes records with this decoder. Default: [`SeedEnvelope`].
    #[must_use]
    pub fn decoder(mut self, decoder: impl Decoder + 'static) -> Self {
        self.decoder = Arc::new(decoder);
        self
    }

    /// The most records in one batch, at least 1. Default: 500.
    #[must_use]
    pub fn batch(mut self, records: usize) -> Self {
        self.batch = records.max(1);
        self
    }

    /// Sets any setting of librdkafka. [`KafkaSourceBuilder::build`] refuses `enable.auto.commit` and
    /// `enable.auto.offset.store` other than false, which would commit events before they took effect.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.set(name, value);
        self
    }

    /// Accepts a value of this setting that can lose events.
    #[must_use]
    pub fn allow_dangerous(mut self, name: impl Into<String>) -> Self {
        self.settings.allow(name);
        self
    }

    /// Checks the settings. Connects to nothing.
    ///
    /// # Errors
    /// [`SourceErrorKind::Configuration`] naming a setting that is unknown, has no such value, or is dangerous, or when
    /// there is no topic.
    pub fn build(self) -> Result<KafkaSource, SourceError> {
        let configuration = |why| SourceError::new(SourceErrorKind::Configuration, why);
        if self.topics.is_empty() {
            return Err(configuration("a source needs a topic to read".to_owned()));
        }
        let config = self.settings.client_config().map_err(configuration)?;
        let from_end = matches!(self.settings.value("auto.offset.reset"), Some("latest" | "largest" | "end"));
        Ok(KafkaSource {
            config,
            topics: self.topics,
            decoder: self.decoder,
            batch: self.batch,
            from_end,
            joining: None,
            membership: None,
        })
    }
}

impl fmt::Debug for KafkaSourceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSourceBuilder")
            .field("settings", &self.settings)
            .field("topics", &self.topics)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}
