//! One librdkafka producer from its creation to its end, with a thread of its own.
//!
//! A producer that failed is never used again: it is purged, all its reports are waited for, it is destroyed, and only
//! then a new one may send. Otherwise what the old one still holds could be written behind what the new one sends.

use std::{
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use outbox_core::publisher::{Outcome, PublishError};
use rdkafka::{
    ClientConfig,
    config::FromClientConfigAndContext,
    error::{KafkaError, KafkaResult},
    producer::{BaseProducer, BaseRecord, Producer, PurgeConfig},
    types::RDKafkaErrorCode as Code,
};

use super::{
    catalogue::Kept,
    delivery::{Batch, Body, Line, lock},
    failure,
    flights::MOST,
    reports::{Manner, Reports},
    seat::Seat,
    warmth::{Waiting, Warming},
};
use crate::{headers, topics};

/// How long one poll takes: the most by which the end of a producer is delayed, and the outcomes of a batch that is
/// delivered in part.
const POLL: Duration = Duration::from_millis(50);

/// How long the reports of a purged producer are waited for. They come at once; some were seen never to come.
const REPORTS: Duration = Duration::from_secs(5);

/// How long the broker's answers to what was sent already are waited for before they are given up.
const ACKNOWLEDGEMENTS: Duration = Duration::from_millis(500);

/// How long an isolating producer is kept when it has nothing to do: refusals are rare, and come in groups.
const IDLE: Duration = Duration::from_secs(30);

/// How long nothing is reported before it is asked why.
const SILENCE: Duration = Duration::from_secs(10);

/// How long the cluster is given to answer then.
const PROBE: Duration = Duration::from_secs(2);

/// A producer and what it still owes.
pub(crate) struct Generation {
    producer: BaseProducer<Reports>,
}

/// What to do with a message before it is queued.
pub(crate) enum Gate {
    /// Queue it.
    Go(Body),
    /// Leave it out: it is kept elsewhere.
    Kept,
    /// It fails.
    Refused(PublishError),
}

impl Generation {
    /// Creates a producer. Blocks while librdkafka starts its threads.
    pub(crate) fn create(config: &ClientConfig, reports: Reports) -> KafkaResult<Arc<Self>> {
        Ok(Arc::new(Self { producer: BaseProducer::from_config_and_context(config, reports)? }))
    }

    /// Serves the producer until it fails, `seat` wants it to end, or `seat` is gone. Then ends it.
    pub(crate) fn serve(self: Arc<Self>, seat: Weak<Seat>, config: ClientConfig) -> std::io::Result<()> {
        thread::Builder::new().name("outbox-kafka".to_owned()).spawn(move || {
            let mut busy = Instant::now();
            let mut silence = Silence::default();
            while !self.is_over(&seat) {
                self.producer.poll(POLL);
                self.release();
                self.reports().hand_over();
                let under_way = lock(&self.reports().flights).under_way();
                if silence.is_long(under_way) && self.is_lost(&config) {
                    tracing::warn!("the producer has lost all brokers for good, and is replaced");
                    self.reports().break_off();
                }
                if !self.owes_nothing() || self.reports().manner == Manner::Together {
                    busy = Instant::now();
                } else if busy.elapsed() >= IDLE
                    && let Some(seat) = seat.upgrade()
                {
                    seat.retire();
                }
            }
            if let Some(seat) = seat.upgrade() {
                seat.close_to_senders();
            }
            let in_time = self.reports().is_broken() || self.owes_nothing();
            self.give_up();
            let held = self.reports().warmth.drain();
            let too_large = self.reports().judge();
            fail(held);
            drop(self);
            if let Some(seat) = seat.upgrade() {
                seat.learn(&too_large);
                seat.open_to_senders(in_time);
            }
        })?;
        Ok(())
    }

    /// Queues these messages of a batch in order, each if `gate` lets it go. What fails is resolved, and so is what comes
    /// behind it of its key.
    pub(crate) fn send(
        &self,
        batch: &Arc<Batch>,
        indices: impl ExactSizeIterator<Item = usize> + Clone,
        bodies: impl IntoIterator<Item = Body>,
        gate: impl FnMut(usize, Body) -> Gate,
    ) {
        let together = self.reports().manner == Manner::Together;
        let warmth = &self.reports().warmth;
        let warming = (together && !warmth.is_warm_for(batch)).then(|| warmth.sift());
        self.send_some(batch, indices, bodies, gate, warming);
    }

    fn send_some(
        &self,
        batch: &Arc<Batch>,
        indices: impl ExactSizeIterator<Item = usize> + Clone,
        bodies: impl IntoIterator<Item = Body>,
        mut gate: impl FnMut(usize, Body) -> Gate,
        mut warming: Option<Warming<'_>>,
    ) {
        if indices.len() == 0 {
            return;
        }
        let mut warm = "";
        let first = lock(&self.reports().flights).begin(batch, indices.clone());
        let mut left_out = Vec::new();
        let mut stuck = false;
        let mut topic = "";
        for (index, body) in indices.zip(bodies) {
            let line = batch.line(index);
            let failed = if batch.is_broken(index) {
                None
            } else {
                match gate(index, body) {
                    Gate::Kept => {
                        left_out.push(index);
                        continue;
                    }
                    Gate::Refused(error) => {
                        let error = match &mut warming {
                            Some(warming) => warming.refuse(batch, index, error),
                            None => Some(error),
                        };
                        if error.is_none() {
                            left_out.push(index);
                            continue;
                        }
                        error
                    }
                    Gate::Go(_) if stuck || index >= MOST => {
                        Some(failure::environment("an earlier message could not be queued"))
                    }
                    Gate::Go(body) => {
                        let mut body = Some(body);
                        if warm != &*line.topic
                            && let Some(warming) = &mut warming
                        {
                            if warming.is_warm(&line.topic) {
                                warm = &line.topic;
                            } else {
                                body = body.and_then(|body| warming.admit(batch, index, body));
                            }
                        }
                        let Some(body) = body else {
                            left_out.push(index);
                            continue;
                        };
                        match self.queue(line, &body, first | index, &mut topic) {
                            Ok(()) => continue,
                            Err(error) => {
                                if let Some(warming) = &mut warming {
                                    warming.withdraw(&line.topic, &line.key);
                                }
                                let code = error.rdkafka_error_code();
                                stuck = matches!(code, Some(Code::Fatal | Code::QueueFull));
                                if code == Some(Code::Fatal) {
                                    self.reports().break_off();
                                }
                                Some(failure::at_enqueue(error, &line.topic, line.bytes))
                            }
                        }
                    }
                }
            };
            left_out.push(index);
            batch.resolve(index, failed.map_or(Outcome::Aborted, Outcome::Failed));
        }
        if !left_out.is_empty() {
            lock(&self.reports().flights).withdraw(first, &left_out);
            batch.wake();
        }
    }

    /// Sends what waited for a first acknowledgement.
    fn release(&self) {
        if self.is_broken() {
            // What waits stays where it is: behind what failed.
            return;
        }
        let partitions = |topic: &str| {
            let metadata = self.producer.client().fetch_metadata(Some(topic), PROBE).ok()?;
            Some(metadata.topics().first()?.partitions().len()).filter(|count| *count > 0)
        };
        let send = |waiting| match waiting {
            Waiting::Message(Kept { batch, index, body }) => {
                self.send_some(&batch, std::iter::once(index), [body], |_, body| Gate::Go(body), None);
            }
            Waiting::Refused(batch, index, error) => settle(&batch, index, error),
        };
        self.reports().warmth.release(partitions, send);
    }

    /// `checked`: the last topic whose name was found to be one.
    fn queue<'a>(&self, line: &'a Line, body: &Body, number: usize, checked: &mut &'a str) -> Result<(), KafkaError> {
        // librdkafka would ask the cluster for such a topic, again and again, and then call it unknown.
        if **checked != *line.topic {
            if !is_topic_name(&line.topic) {
                return Err(KafkaError::MessageProduction(Code::InvalidTopic));
            }
            *checked = &line.topic;
        }
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&line.topic, number).key(&line.key[..]);
        if let Some(payload) = &body.payload {
            record = record.payload(&payload[..]);
        }
        if !body.headers.is_empty() {
            record = record.headers(headers::to_kafka(&body.headers));
        }
        self.producer.send(record).map_err(|(error, _)| error)
    }

    /// Asks the cluster for its topics. Blocks for up to `timeout`.
    pub(crate) fn ask(&self, timeout: Duration) -> KafkaResult<()> {
        self.producer.client().fetch_metadata(None, timeout).map(drop)
    }

    /// Whether it does not reach a cluster that others reach. librdkafka forgets its brokers when an answer names none,
    /// as that of a broker which is fenced does, and sometimes never asks again (its issue 5301). Blocks.
    fn is_lost(&self, config: &ClientConfig) -> bool {
        if self.ask(PROBE).is_ok() {
            return false;
        }
        let other = topics::admin(config).and_then(|other| other.inner().fetch_metadata(None, PROBE));
        other.is_ok_and(|cluster| !cluster.brokers().is_empty())
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.reports().is_broken()
    }

    fn is_over(&self, seat: &Weak<Seat>) -> bool {
        let Some(seat) = seat.upgrade() else { return true };
        let drained = |deadline| self.owes_nothing() || Instant::now() >= deadline;
        self.is_broken() || seat.deadline().is_some_and(drained)
    }

    /// Whether every message has its outcome.
    fn owes_nothing(&self) -> bool {
        let under_way = lock(&self.reports().flights).under_way();
        under_way == 0 && self.reports().warmth.is_empty()
    }

    /// Purges until every message was reported, or for as long as reports are worth waiting for.
    fn give_up(&self) {
        let begun = Instant::now();
        while lock(&self.reports().flights).under_way() > 0 && begun.elapsed() < REPORTS {
            let mut what = PurgeConfig::default().queue();
            // What a broken producer has sent already is usually acknowledged or refused at once, and a true outcome
            // saves a duplicate.
            if !self.is_broken() || begun.elapsed() >= ACKNOWLEDGEMENTS {
                what = what.inflight();
            }
            self.producer.purge(what);
            self.producer.poll(POLL);
        }
    }

    fn reports(&self) -> &Reports {
        self.producer.context()
    }
}

/// What waited for a first acknowledgement when the producer ended.
fn fail(held: Vec<Waiting>) {
    for waiting in held {
        let replaced = || failure::environment("the producer was replaced; send again");
        match waiting {
            Waiting::Message(Kept { batch, index, .. }) | Waiting::Refused(batch, index, _) => {
                settle(&batch, index, replaced());
            }
        }
    }
}

/// Fails a message that is in no producer; behind a failure of its key it is aborted.
fn settle(batch: &Batch, index: usize, error: PublishError) {
    let outcome = if batch.is_broken(index) { Outcome::Aborted } else { Outcome::Failed(error) };
    batch.resolve(index, outcome);
    batch.wake();
}

/// How long nothing was reported though something is under way.
#[derive(Default)]
struct Silence {
    under_way: usize,
    since: Option<Instant>,
}

impl Silence {
    /// Whether it is time to look why, once in a while.
    fn is_long(&mut self, under_way: usize) -> bool {
        if under_way == 0 || under_way != self.under_way {
            *self = Self { under_way, since: Some(Instant::now()) };
            return false;
        }
        let long = self.since.is_some_and(|since| since.elapsed() >= SILENCE);
        if long {
            self.since = Some(Instant::now());
        }
        long
    }
}

/// Kafka's rule: 1 to 249 of letters, digits, `.`, `_` and `-`, not `.` or `..`.
pub(crate) fn is_topic_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(legal)
}
