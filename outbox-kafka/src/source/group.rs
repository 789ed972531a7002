//! Membership in a consumer group: the client, its rebalances, and the task that polls it.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use outbox_core::source::{Partition, SourceError, SourceErrorKind};
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol, StreamConsumer},
    error::{KafkaError, KafkaResult},
    message::BorrowedMessage,
    types::{RDKafkaErrorCode as Code, RDKafkaRespErr},
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    inbox::{Inbox, Raw},
    offsets,
};
use crate::{client_log::ClientLog, headers, settings::explain};

/// How long the cluster is given to tell its id.
const ANSWER: Duration = Duration::from_secs(5);

/// After so many records in a row the task looks after the partitions.
const RUN: usize = 200;

/// A member of the group, as long as it lives.
pub(crate) struct Membership {
    /// The polling task has the strong one: dropping the last leaves the group, which blocks, and that task does it in a
    /// thread that may.
    consumer: Weak<StreamConsumer<Member>>,
    pub(crate) inbox: Arc<Inbox>,
    #[expect(dead_code, reason = "its end is the signal to leave")]
    presence: oneshot::Sender<()>,
    polling: JoinHandle<()>,
}

impl Membership {
    /// Joins the group and begins to poll. Blocks until the cluster answers, at most five seconds: call it in a blocking
    /// thread of the runtime.
    pub(crate) fn join(config: &ClientConfig, topics: &[String], batch: usize) -> Result<Self, SourceError> {
        let inbox = Arc::new(Inbox::new(batch));
        let member = Member { cluster: OnceLock::new(), inbox: inbox.clone(), log: ClientLog::default() };
        let configuration = |error: KafkaError| SourceError::new(SourceErrorKind::Configuration, explain(&error));
        let consumer = StreamConsumer::from_config_and_context(config, member).map_err(configuration)?;
        let Some(cluster) = consumer.client().fetch_cluster_id(ANSWER) else {
            let message = format!(
                "Kafka at {} did not answer within {ANSWER:?}; check the address, the network and that the broker runs",
                config.get("bootstrap.servers").unwrap_or_default()
            );
            return Err(SourceError::new(SourceErrorKind::Unavailable, message));
        };
        // Set once: the member is new.
        let _new = consumer.context().cluster.set(cluster);
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(configuration)?;
        let consumer = Arc::new(consumer);
        let (presence, leaving) = oneshot::channel();
        let membership = Arc::downgrade(&consumer);
        let polling = tokio::spawn(poll_until_left(consumer, inbox.clone(), leaving));
        Ok(Self { consumer: membership, inbox, presence, polling })
    }

    /// The consumer, for requests in a blocking thread; `None` when it has left.
    pub(crate) fn consumer(&self) -> Option<Arc<StreamConsumer<Member>>> {
        self.consumer.upgrade()
    }

    /// Ends the polling task, which then leaves the group; so does dropping the membership.
    pub(crate) fn leave(self) -> JoinHandle<()> {
        self.polling
    }
}

/// Polls whatever the application does meanwhile: rebalances are answered and the member stays in its group while a
/// batch is worked on.
async fn poll_until_left(consumer: Arc<StreamConsumer<Member>>, inbox: Arc<Inbox>, leaving: oneshot::Receiver<()>) {
    let end = EndOnDrop(inbox.clone());
    poll(&consumer, &inbox, leaving).await;
    drop(end);
    // The last handle leaves the group when dropped, which blocks; one that a request still has is dropped in a
    // blocking thread too. A runtime that shuts down has no such thread any more.
    let _left = tokio::task::spawn_blocking(move || drop(consumer)).await;
}

/// Also a task that panicked must not leave its application waiting.
struct EndOnDrop(Arc<Inbox>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn poll(consumer: &StreamConsumer<Member>, inbox: &Inbox, mut leaving: oneshot::Receiver<()>) {
    let mut records = consumer.stream();
    loop {
        pause_and_resume(consumer, inbox);
        let mut next = tokio::select! {
            biased;
            _ = &mut leaving => return,
            () = inbox.upkeep.notified() => continue,
            record = records.next() => record,
        };
        let mut run = 0;
        while let Some(received) = next.take() {
            match received {
                Ok(record) => receive(inbox, &record),
                Err(error) => consumer.context().judge(error).into_iter().for_each(|error| inbox.fail(error)),
            }
            run += 1;
            if run < RUN {
                next = records.next().now_or_never().flatten();
            }
        }
        // With records always at hand the task would never give its thread back.
        tokio::task::yield_now().await;
    }
}

fn receive(inbox: &Inbox, record: &BorrowedMessage<'_>) {
    let raw = Raw {
        offset: record.offset(),
        key: record.key().map(Bytes::copy_from_slice),
        payload: record.payload().map(Bytes::copy_from_slice),
        headers: headers::from_kafka(record.headers()),
    };
    inbox.push(record.topic(), record.partition(), raw);
}

fn pause_and_resume(consumer: &StreamConsumer<Member>, inbox: &Inbox) {
    let list = |partitions: &[(Arc<str>, i32)]| {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (topic, number) in partitions {
            list.add_partition(topic, *number);
        }
        list
    };
    let (pause, resume) = inbox.due();
    let paused = if pause.is_empty() { Ok(()) } else { consumer.pause(&list(&pause)) };
    let resumed = if resume.is_empty() { Ok(()) } else { consumer.resume(&list(&resume)) };
    if let Err(error) = paused.and(resumed) {
        // The partition was revoked a moment ago, which the next poll will tell.
        tracing::debug!(%error, "a partition could not be paused or resumed");
    }
    inbox.settled.notify_waiters();
}

/// What librdkafka tells a member.
pub(crate) struct Member {
    cluster: OnceLock<String>,
    inbox: Arc<Inbox>,
    log: ClientLog,
}

impl Member {
    fn partition(&self, topic: &str, number: i32) -> Partition {
        offsets::partition(self.cluster.get().map_or("", String::as_str), topic, number)
    }

    /// What the application has to know of an error; librdkafka mends the others itself, and they are logged.
    fn judge(&self, error: KafkaError) -> Option<SourceError> {
        let configuration = |message: &'static str| Some(SourceError::new(SourceErrorKind::Configuration, message));
        let told = match &error {
            KafkaError::PartitionEOF(_) => return None,
            KafkaError::MessageConsumptionFatal(_) => {
                configuration("the consumer cannot go on; is another one running under the same group.instance.id?")
            }
            other => match other.rdkafka_error_code() {
                Some(Code::TopicAuthorizationFailed) => configuration("reading a topic is not allowed; grant it"),
                Some(Code::GroupAuthorizationFailed) => configuration("using the group is not allowed; grant it"),
                Some(Code::SaslAuthenticationFailed | Code::Authentication | Code::UnsupportedSASLMechanism) => {
                    configuration("the broker refused the credentials")
                }
                Some(Code::InconsistentGroupProtocol) => {
                    configuration("other members of the group use another partition.assignment.strategy")
                }
                Some(Code::AutoOffsetReset) => {
                    configuration("the offset is out of range and auto.offset.reset forbids to choose another")
                }
                _ => None,
            },
        };
        if told.is_none() {
            self.log.warn("consumer", &error.to_string());
        }
        told.map(|told| told.with_source(error))
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) -> KafkaResult<()> {
        // Any offset will do, since a start seeks: with one librdkafka does not look up the committed one first, and a
        // seek is possible at once. Nothing can be received in between, for this runs inside of the poll.
        list.set_all_offsets(Offset::Offset(0))?;
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list)?,
            _ => consumer.assign(list)?,
        }
        consumer.pause(list)?;
        let named = list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect::<Vec<_>>();
        if !named.is_empty() {
            let full = |(topic, number): (String, i32)| (self.partition(&topic, number), topic.into(), number);
            self.inbox.assign(named.into_iter().map(full).collect());
        }
        Ok(())
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> KafkaResult<()> {
        let named: Vec<Partition> = list.elements().iter().map(|e| self.partition(e.topic(), e.partition())).collect();
        if !named.is_empty() {
            self.inbox.revoke(named);
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        }
    }
}

impl ConsumerContext for Member {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let done = match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, list),
            _ => self.revoked(consumer, list),
        };
        if let Err(error) = done {
            let message = "the group's assignment could not be taken over; call next again";
            self.inbox.fail(SourceError::new(SourceErrorKind::Unavailable, message).with_source(error));
        }
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.warn(&error.to_string(), reason);
    }
}
