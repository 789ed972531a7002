//! What librdkafka reports of one producer's messages.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use outbox_core::publisher::Outcome;
use rdkafka::{
    ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::KafkaError,
    producer::{DeliveryResult, ProducerContext},
    types::RDKafkaErrorCode as Code,
};

use super::{
    catalogue::Catalogue,
    delivery::{Batch, lock},
    failure,
    flights::Flights,
    reach::{Reach, Reachability},
    warmth::Warmth,
};
use crate::client_log::ClientLog;

/// How a producer sends, and what a failure means for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Messages share batches. A failure ends the producer, so that nothing overtakes the failed message.
    Together,
    /// Each message by itself. A failure is its own affair.
    Alone,
}

/// Takes the delivery reports of one producer.
pub(crate) struct Reports {
    pub(crate) manner: Manner,
    pub(crate) flights: Mutex<Flights>,
    pub(crate) warmth: Warmth,
    failed: Mutex<Vec<Failed>>,
    broken: AtomicBool,
    reach: Arc<Reachability>,
    catalogue: Arc<Catalogue>,
    log: ClientLog,
}

/// A message that failed together with its producer. Its outcome waits until all reports are in, for two reasons: who
/// sends again has to find the next producer, not this one; and all messages of a refused batch are reported, so one that
/// is the only one of its partition was alone and is at fault itself.
struct Failed {
    batch: Arc<Batch>,
    index: usize,
    partition: i32,
    code: Code,
}

/// What a topic refused for its size.
#[derive(Debug, Default)]
pub(crate) struct TooLarge {
    pub(crate) messages: usize,
    /// Keys, bodies and headers of one partition.
    pub(crate) bytes: usize,
}

impl Reports {
    pub(crate) fn new(manner: Manner, reach: Arc<Reachability>, catalogue: Arc<Catalogue>) -> Self {
        Self {
            manner,
            flights: Mutex::default(),
            warmth: Warmth::default(),
            failed: Mutex::default(),
            broken: AtomicBool::new(false),
            reach,
            catalogue,
            log: ClientLog::default(),
        }
    }

    /// Whether the producer failed and will be replaced.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(crate) fn break_off(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Tells what was delivered of batches that are not complete.
    pub(crate) fn hand_over(&self) {
        let told = lock(&self.flights).hand_over();
        for batch in told {
            batch.wake();
        }
    }

    /// The producer has ended: gives every failed message its outcome, and those whose report never came one that says
    /// so. Of each key's refused messages the first is blamed, and those behind it were certainly not written. Returns
    /// what was too large for its topic.
    pub(crate) fn judge(&self) -> BTreeMap<Arc<str>, TooLarge> {
        let failed = std::mem::take(&mut *lock(&self.failed));
        let missing = lock(&self.flights).abandon();
        let mut refused = BTreeMap::<(Arc<str>, i32), TooLarge>::new();
        let mut too_large = HashSet::new();
        for Failed { batch, index, partition, code } in &failed {
            if failure::is_refusal(*code) {
                let line = batch.line(*index);
                let sum = refused.entry((line.topic.clone(), *partition)).or_default();
                sum.messages += 1;
                sum.bytes += line.bytes;
                if failure::is_about_size(*code) {
                    too_large.insert(line.topic.clone());
                }
            }
        }
        let mut blamed = HashSet::new();
        for Failed { batch, index, partition, code } in failed {
            let line = batch.line(index);
            let topic = &line.topic;
            let outcome = if !failure::is_refusal(code) {
                Outcome::Failed(failure::failed(code, topic))
            } else if blamed.insert(line.place()) {
                let together = refused.get(&(topic.clone(), partition)).is_none_or(|sum| sum.messages != 1);
                // One whose report is missing may have been beside it.
                let alone = !together && missing.is_empty();
                Outcome::Failed(failure::refused(code, alone, topic))
            } else {
                Outcome::Aborted
            };
            batch.resolve(index, outcome);
        }
        for (batch, indices) in missing {
            let unknown = "the producer ended without a report; the message may have been written";
            for index in indices {
                batch.resolve(index, Outcome::Failed(failure::environment(unknown)));
            }
        }
        let mut by_topic = BTreeMap::<Arc<str>, TooLarge>::new();
        for ((topic, _), sum) in refused {
            if too_large.contains(&topic) {
                let largest = by_topic.entry(topic).or_default();
                if sum.bytes > largest.bytes {
                    *largest = sum;
                }
            }
        }
        by_topic
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        if self.manner == Manner::Together && self.warmth.is_needed() {
            let (message, delivered) = match result {
                Ok(message) => (message, true),
                Err((_, message)) => (message, false),
            };
            self.warmth.reported(message.topic(), message.key().unwrap_or_default(), message.partition(), delivered);
        }
        let Err((error, message)) = result else {
            let complete = lock(&self.flights).delivered(number);
            if let Some(batch) = complete {
                self.reach.set(Reach::Up);
                batch.wake();
            }
            return;
        };
        let Some((batch, index)) = lock(&self.flights).take(number) else { return };
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let topic = &batch.line(index).topic;
        let outcome = match self.manner {
            _ if failure::is_of_topic(code) => {
                if code == Code::TopicAuthorizationFailed {
                    self.catalogue.forbid(topic, failure::advice(code, topic));
                } else {
                    self.catalogue.forget(topic);
                }
                failure::failed(code, topic)
            }
            Manner::Alone if failure::is_refusal(code) => {
                if failure::is_about_size(code) {
                    // The limit is not what it was believed to be.
                    self.catalogue.forget(topic);
                }
                failure::refused(code, true, topic)
            }
            Manner::Alone => failure::failed(code, topic),
            Manner::Together => {
                self.break_off();
                // What was delivered beside it.
                batch.wake();
                lock(&self.failed).push(Failed { batch, index, partition: message.partition(), code });
                return;
            }
        };
        batch.resolve(index, Outcome::Failed(outcome));
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(Code::Fatal | Code::GaplessGuarantee) => self.break_off(),
            Some(Code::AllBrokersDown) => self.reach.set(Reach::Down),
            _ => {}
        }
        self.log.warn(&error.to_string(), reason);
    }
}
