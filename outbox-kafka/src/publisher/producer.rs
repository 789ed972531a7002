//! One librdkafka producer from its creation to its end, with a thread of its own.
//!
//! A producer that failed is never used again: it is purged, all its reports are waited for, it is destroyed, and only
//! then a new one may send. Otherwise what the old one still holds could be written behind what the new one sends.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use outbox_core::publisher::{Message, Outcome};
use rdkafka::{
    ClientConfig, ClientContext, Message as _,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, KafkaResult},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig},
    types::RDKafkaErrorCode as Code,
};

use super::{
    delivery::{Batch, lock},
    failure,
    reach::{Reach, Reachability},
    shared::Shared,
};
use crate::{client_log::ClientLog, headers};

/// How long one poll takes: the most by which the end of a producer is delayed.
const POLL: Duration = Duration::from_millis(50);

/// How long the reports of a purged producer are waited for. They come at once; some were seen never to come.
const REPORTS: Duration = Duration::from_secs(5);

/// How long the broker's answers to what was sent already are waited for before they are given up.
const ACKNOWLEDGEMENTS: Duration = Duration::from_millis(500);

/// A producer and what it still owes.
pub(crate) struct Generation {
    producer: BaseProducer<Reports>,
}

impl Generation {
    /// Creates a producer. Blocks while librdkafka starts its threads.
    pub(crate) fn create(config: &ClientConfig, reach: Arc<Reachability>) -> KafkaResult<Arc<Self>> {
        let reports =
            Reports { flights: Mutex::default(), broken: AtomicBool::new(false), reach, log: ClientLog::default() };
        Ok(Arc::new(Self { producer: BaseProducer::from_config_and_context(config, reports)? }))
    }

    /// Serves the producer until it fails, `shared` wants it to end, or `shared` is gone. Then ends it.
    pub(crate) fn serve(self: Arc<Self>, shared: Weak<Shared>) -> std::io::Result<()> {
        thread::Builder::new().name("outbox-kafka".to_owned()).spawn(move || {
            while !self.is_over(&shared) {
                self.producer.poll(POLL);
            }
            if let Some(shared) = shared.upgrade() {
                shared.close_to_senders();
            }
            let in_time = self.is_broken() || self.owes_nothing();
            self.give_up();
            drop(self);
            if let Some(shared) = shared.upgrade() {
                shared.open_to_senders(in_time);
            }
        })?;
        Ok(())
    }

    /// Queues all messages of a batch in order. What cannot be queued is resolved, and so is what comes behind it.
    pub(crate) fn send(&self, batch: &Arc<Batch>, messages: &[Message]) {
        if messages.is_empty() {
            return;
        }
        let first = lock(&self.reports().flights).add(batch);
        for (index, message) in messages.iter().enumerate() {
            if batch.is_broken(index) {
                batch.resolve(index, Outcome::Aborted);
            } else if let Err(error) = self.queue(message, first.wrapping_add(index)) {
                let fatal = error.rdkafka_error_code() == Some(Code::Fatal);
                if fatal {
                    self.reports().break_off();
                }
                let stuck = fatal || error.rdkafka_error_code() == Some(Code::QueueFull);
                let error = failure::at_enqueue(error, &message.topic, message.bytes());
                batch.resolve(index, Outcome::Failed(error));
                if stuck {
                    batch.fail_from(index + 1, || failure::environment("an earlier message could not be queued"));
                    break;
                }
            }
        }
        lock(&self.reports().flights).remove_complete(first);
    }

    fn queue(&self, message: &Message, number: usize) -> Result<(), KafkaError> {
        // librdkafka would ask the cluster for such a topic, again and again, and then call it unknown.
        if !is_topic_name(&message.topic) {
            return Err(KafkaError::MessageProduction(Code::InvalidTopic));
        }
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&message.topic, number).key(&message.key[..]);
        if let Some(payload) = &message.payload {
            record = record.payload(&payload[..]);
        }
        if !message.headers.is_empty() {
            record = record.headers(headers::to_kafka(&message.headers));
        }
        self.producer.send(record).map_err(|(error, _)| error)
    }

    /// Asks the cluster for its topics. Blocks for up to `timeout`.
    pub(crate) fn ask(&self, timeout: Duration) -> KafkaResult<()> {
        self.producer.client().fetch_metadata(None, timeout).map(drop)
    }

    fn is_over(&self, shared: &Weak<Shared>) -> bool {
        let Some(shared) = shared.upgrade() else { return true };
        let drained = |deadline| self.owes_nothing() || Instant::now() >= deadline;
        self.is_broken() || shared.deadline().is_some_and(drained)
    }

    /// Whether it failed and will be replaced.
    pub(crate) fn is_broken(&self) -> bool {
        self.reports().broken.load(Ordering::Acquire)
    }

    /// Whether every message has its outcome.
    fn owes_nothing(&self) -> bool {
        lock(&self.reports().flights).batches.is_empty()
    }

    /// Purges until every message has an outcome, and makes one up for those whose report never comes.
    fn give_up(&self) {
        let begun = Instant::now();
        loop {
            let mut what = PurgeConfig::default().queue();
            // What a broken producer has sent already is usually acknowledged or refused at once, and a true outcome
            // saves a duplicate.
            if !self.is_broken() || begun.elapsed() >= ACKNOWLEDGEMENTS {
                what = what.inflight();
            }
            self.producer.purge(what);
            self.producer.poll(POLL);
            if lock(&self.reports().flights).awaits_no_report() || begun.elapsed() >= REPORTS {
                break;
            }
        }
        self.reports().judge();
        let left = std::mem::take(&mut lock(&self.reports().flights).batches);
        for batch in left.values() {
            for index in (0..batch.len()).filter(|index| batch.is_open(*index)) {
                let unknown = "the producer ended without a report; the message may have been written";
                batch.resolve(index, Outcome::Failed(failure::environment(unknown)));
            }
        }
    }

    fn reports(&self) -> &Reports {
        self.producer.context()
    }
}

/// Kafka's rule: 1 to 249 of letters, digits, `.`, `_` and `-`, not `.` or `..`.
fn is_topic_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(legal)
}

/// Takes the delivery reports of one producer.
pub(crate) struct Reports {
    flights: Mutex<Flights>,
    broken: AtomicBool,
    reach: Arc<Reachability>,
    log: ClientLog,
}

/// The batches on their way. Each message has a number, which librdkafka carries; a batch has consecutive ones.
#[derive(Default)]
struct Flights {
    next: usize,
    batches: BTreeMap<usize, Arc<Batch>>,
    failed: Vec<Failed>,
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

impl Flights {
    fn add(&mut self, batch: &Arc<Batch>) -> usize {
        let first = if self.next.checked_add(batch.len()).is_some() { self.next } else { 0 };
        self.next = first + batch.len();
        self.batches.insert(first, batch.clone());
        first
    }

    fn find(&self, number: usize) -> Option<(usize, &Arc<Batch>)> {
        let (first, batch) = self.batches.range(..=number).next_back()?;
        (number - first < batch.len()).then_some((*first, batch))
    }

    fn remove_complete(&mut self, first: usize) {
        if self.batches.get(&first).is_some_and(|batch| batch.open() == 0) {
            self.batches.remove(&first);
        }
    }

    fn awaits_no_report(&self) -> bool {
        let open: usize = self.batches.values().map(|batch| batch.open()).sum();
        open <= self.failed.len()
    }
}

impl Reports {
    /// Gives every failed message its outcome. Of each key's refused messages the first is blamed, and those behind it
    /// were certainly not written.
    fn judge(&self) {
        let failed = std::mem::take(&mut lock(&self.flights).failed);
        let mut refused = BTreeMap::<(Arc<str>, i32), usize>::new();
        for Failed { batch, index, partition, code } in &failed {
            if failure::is_refusal(*code) {
                *refused.entry((batch.place(*index).topic.clone(), *partition)).or_default() += 1;
            }
        }
        let mut blamed = HashSet::new();
        for Failed { batch, index, partition, code } in failed {
            let place = batch.place(index);
            let outcome = if !failure::is_refusal(code) {
                Outcome::Failed(failure::failed(code, &place.topic))
            } else if blamed.insert(place.clone()) {
                let alone = refused.get(&(place.topic.clone(), partition)) == Some(&1);
                Outcome::Failed(failure::refused(code, alone, &place.topic))
            } else {
                Outcome::Aborted
            };
            batch.resolve(index, outcome);
        }
    }

    fn break_off(&self) {
        self.broken.store(true, Ordering::Release);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let found = lock(&self.flights).find(number).map(|(first, batch)| (first, batch.clone()));
        let Some((first, batch)) = found else { return };
        let index = number - first;
        match result {
            Ok(_) => {
                self.reach.set(Reach::Up);
                batch.resolve(index, Outcome::Delivered);
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
                if !failure::is_of_topic(code) {
                    self.break_off();
                    let failed = Failed { batch, index, partition: message.partition(), code };
                    lock(&self.flights).failed.push(failed);
                    return;
                }
                batch.resolve(index, Outcome::Failed(failure::failed(code, &batch.place(index).topic)));
            }
        }
        lock(&self.flights).remove_complete(first);
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
