//! What librdkafka tells a member of a group, and what is done about it.

use std::sync::{Arc, OnceLock};

use outbox_core::source::{Partition, SourceError, SourceErrorKind};
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, KafkaResult},
    types::{RDKafkaErrorCode as Code, RDKafkaRespErr},
};

use super::{inbox::Inbox, position};
use crate::client_log::ClientLog;

/// The context of a member's client.
pub(crate) struct Member {
    cluster: OnceLock<String>,
    inbox: Arc<Inbox>,
    log: ClientLog,
    verbose: bool,
}

/// What is to be done about an error.
pub(crate) enum Verdict {
    /// librdkafka mends it.
    Passes,
    /// The position of some partition fits no more; librdkafka does not say of which.
    PositionLost,
    Tell(SourceError),
}

impl Member {
    /// `verbose`: the application asked for librdkafka's debug lines.
    pub(crate) fn new(inbox: Arc<Inbox>, verbose: bool) -> Self {
        Self { cluster: OnceLock::new(), inbox, log: ClientLog::default(), verbose }
    }

    /// Once, before the first assignment.
    pub(crate) fn belongs_to(&self, cluster: String) {
        let _known = self.cluster.set(cluster);
    }

    pub(crate) fn judge(&self, error: KafkaError) -> Verdict {
        let advice = match &error {
            KafkaError::PartitionEOF(_) => return Verdict::Passes,
            KafkaError::MessageConsumptionFatal(_) => {
                "the consumer cannot go on; is another one running under the same group.instance.id?"
            }
            other => match other.rdkafka_error_code() {
                Some(Code::TopicAuthorizationFailed) => "reading a topic is not allowed; grant it",
                Some(Code::GroupAuthorizationFailed) => "using the group is not allowed; grant it",
                Some(Code::SaslAuthenticationFailed | Code::Authentication | Code::UnsupportedSASLMechanism) => {
                    "the broker refused the credentials"
                }
                Some(Code::InconsistentGroupProtocol) => {
                    "other members of the group use another partition.assignment.strategy"
                }
                Some(Code::AutoOffsetReset) => return Verdict::PositionLost,
                _ => {
                    self.log.warn("consumer", &error.to_string());
                    return Verdict::Passes;
                }
            },
        };
        Verdict::Tell(SourceError::new(SourceErrorKind::Configuration, advice).with_source(error))
    }

    /// Takes all partitions away and assigns them anew, for this member only: each start then looks at its position.
    pub(crate) fn start_all_anew(&self, consumer: &impl Consumer<Self>) {
        let done = consumer.assignment().and_then(|mut list| {
            self.revoked(consumer, &list)?;
            self.assigned(consumer, &mut list)
        });
        self.tell_if_failed(done);
    }

    fn assigned(&self, consumer: &impl Consumer<Self>, list: &mut TopicPartitionList) -> KafkaResult<()> {
        // Any offset will do, since a start seeks. Not a logical one, nor the committed one: librdkafka would look it up,
        // and when the answer comes after the seek, it asks again and then goes where that says.
        list.set_all_offsets(Offset::Offset(0))?;
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list)?,
            _ => consumer.assign(list)?,
        }
        consumer.pause(list)?;
        let named = list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect::<Vec<_>>();
        // Also when it is nothing: the group is there, and has said so.
        let full = |(topic, number): (String, i32)| (self.partition(&topic, number), topic.into(), number);
        self.inbox.assign(named.into_iter().map(full).collect());
        Ok(())
    }

    fn revoked(&self, consumer: &impl Consumer<Self>, list: &TopicPartitionList) -> KafkaResult<()> {
        let named: Vec<Partition> = list.elements().iter().map(|e| self.partition(e.topic(), e.partition())).collect();
        if !consumer.assignment_lost() {
            self.commit_what_was_told(consumer, &named);
        }
        if !named.is_empty() {
            self.inbox.revoke(named);
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        }
    }

    /// What the application told to commit and nobody acknowledged, as in the middle of a rebalance: whoever gets the
    /// partition starts there. librdkafka gives the partition up only after the answer.
    fn commit_what_was_told(&self, consumer: &impl Consumer<Self>, partitions: &[Partition]) {
        let told = self.inbox.unacknowledged(partitions);
        if told.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(told.len());
        let listed =
            told.iter().try_for_each(|(is, position)| position::add_to(&mut list, &is.topic, is.number, position));
        if let Err(error) = listed.and_then(|()| consumer.commit(&list, CommitMode::Async)) {
            tracing::debug!(%error, "what was told before is not committed; it comes again");
        }
    }

    fn partition(&self, topic: &str, number: i32) -> Partition {
        position::partition(self.cluster.get().map_or("", String::as_str), topic, number)
    }

    fn tell_if_failed(&self, done: KafkaResult<()>) {
        if let Err(error) = done {
            let message = "the group's assignment could not be taken over; call next again";
            self.inbox.fail(SourceError::new(SourceErrorKind::Unavailable, message).with_source(error));
        }
    }
}

impl ConsumerContext for Member {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, list: &mut TopicPartitionList) {
        self.tell_if_failed(match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, list),
            _ => self.revoked(consumer, list),
        });
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some(topic) = recreated_topic(message) {
            tracing::warn!(topic, "the topic was created again; its partitions have to be started anew");
            self.inbox.recreated(topic);
        }
        if matches!(level, RDKafkaLogLevel::Debug) && !self.verbose {
            return;
        }
        self.log.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.warn(&error.to_string(), reason);
    }
}

/// A topic that is created again while it is read goes unnoticed by Kafka's protocol if it is long enough. librdkafka
/// sees its new id before it fetches of it, and tells nobody but its debug log.
pub(crate) fn hear_of_recreated_topics(config: &mut ClientConfig, debug: Option<&str>) {
    config.set("debug", debug.map_or_else(|| "topic".to_owned(), |debug| format!("{debug},topic")));
    config.set_log_level(RDKafkaLogLevel::Debug);
}

/// The topic of which a line of the debug log says that it has another id now.
fn recreated_topic(line: &str) -> Option<&str> {
    let (topic, ids) = line.split_once("Topic ")?.1.split_once(" changed id from ")?;
    let (from, _) = ids.split_once(" to ")?;
    // All zero: it had none yet.
    (!from.chars().all(|c| c == 'A')).then_some(topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_created_again_when_it_had_another_id_before() {
        let line = |from| format!("[thrd:main]: Topic tutor-events changed id from {from} to Sx9Ni0vwTVGuqxtwYoVpVQ");
        assert_eq!(recreated_topic(&line("B2tLNGhNTJGd3lpOfPSzQw")), Some("tutor-events"));
        assert_eq!(recreated_topic(&line("AAAAAAAAAAAAAAAAAAAAAA")), None);
        assert_eq!(recreated_topic("[thrd:main]: Topic tutor-events has 3 partitions"), None);
    }
}
