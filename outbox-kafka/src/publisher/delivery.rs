//! What became of the messages of one permit, and which keys of a stream are broken.

use std::{
    collections::HashSet,
    mem,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::publisher::{Delivery, Message, Outcome, PublishError};
use tokio::sync::Notify;

use super::capacity::Held;

/// The keys of a stream of which a message failed. What comes behind it may not be written any more: it would overtake
/// the failed one.
#[derive(Debug, Default)]
pub(crate) struct Broken {
    any: AtomicBool,
    places: Mutex<HashSet<Place>>,
}

/// Messages of one topic and key keep their order.
pub(crate) type Place = (Arc<str>, Bytes);

impl Broken {
    fn contains(&self, line: &Line) -> bool {
        self.any.load(Ordering::Acquire) && lock(&self.places).contains(&line.place())
    }

    fn add(&self, line: &Line) {
        lock(&self.places).insert(line.place());
        self.any.store(true, Ordering::Release);
    }
}

/// The messages of one permit, shared by their sender, the delivery callback and whoever waits for the outcomes.
pub(crate) struct Batch {
    lines: Vec<Line>,
    /// More than the largest message takes on the wire.
    largest: usize,
    broken: Arc<Broken>,
    progress: Mutex<Progress>,
    news: Notify,
}

/// What is kept of a message until its outcome is known.
pub(crate) struct Line {
    pub(crate) topic: Arc<str>,
    pub(crate) key: Bytes,
    /// Key, body and headers.
    pub(crate) bytes: usize,
}

/// The rest of a message, which librdkafka copies: not needed any more once it is queued.
pub(crate) struct Body {
    pub(crate) payload: Option<Bytes>,
    pub(crate) headers: Vec<(Arc<str>, Bytes)>,
}

struct Progress {
    open: usize,
    fresh: Vec<(Range<usize>, Outcome)>,
    held: Option<Held>,
}

impl Batch {
    /// `held` is the room that was reserved for them; `None` when they need none.
    pub(crate) fn new(messages: Vec<Message>, broken: Arc<Broken>, held: Option<Held>) -> (Arc<Self>, Vec<Body>) {
        let (mut sum, mut largest) = (0, 0);
        let (mut lines, mut bodies) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
        for message in messages {
            let bytes = message.bytes();
            sum += bytes;
            largest = largest.max(bytes + FRAMING_BYTES + HEADER_FRAMING_BYTES * message.headers.len());
            lines.push(Line { topic: message.topic, key: message.key, bytes });
            bodies.push(Body { payload: message.payload, headers: message.headers });
        }
        let held = held.map(|mut held| {
            held.shrink_to(lines.len(), sum);
            held
        });
        let progress = Mutex::new(Progress { open: lines.len(), fresh: Vec::new(), held });
        (Arc::new(Self { lines, largest, broken, progress, news: Notify::new() }), bodies)
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }

    pub(crate) fn line(&self, index: usize) -> &Line {
        &self.lines[index]
    }

    /// An upper bound of what the largest message takes on the wire.
    pub(crate) fn largest(&self) -> usize {
        self.largest
    }

    /// Whether an earlier message of the same topic and key failed.
    pub(crate) fn is_broken(&self, index: usize) -> bool {
        self.broken.contains(self.line(index))
    }

    /// Takes in the outcome of one message. Each has one.
    pub(crate) fn resolve(&self, index: usize, outcome: Outcome) {
        let mut progress = lock(&self.progress);
        if matches!(outcome, Outcome::Failed(_)) {
            self.broken.add(self.line(index));
        }
        progress.add(&self.lines, index..index + 1, outcome);
        drop(progress);
        self.wake();
    }

    /// Takes in that these were delivered. Whoever waits is not woken.
    pub(crate) fn delivered(&self, runs: impl Iterator<Item = Range<usize>>) {
        let mut progress = lock(&self.progress);
        for run in runs {
            progress.add(&self.lines, run, Outcome::Delivered);
        }
    }

    pub(crate) fn wake(&self) {
        self.news.notify_one();
    }

    /// Fails messages that go no further: of each key the first with `error`, the others as aborted.
    pub(crate) fn fail(&self, indices: impl Iterator<Item = usize>, error: impl Fn() -> PublishError) {
        for index in indices {
            let outcome = if self.is_broken(index) { Outcome::Aborted } else { Outcome::Failed(error()) };
            self.resolve(index, outcome);
        }
    }
}

impl Line {
    pub(crate) fn place(&self) -> Place {
        (self.topic.clone(), self.key.clone())
    }
}

/// Upper bounds of what the wire format adds to a message sent alone, and to each of its headers.
const FRAMING_BYTES: usize = 128;
const HEADER_FRAMING_BYTES: usize = 10;

impl Progress {
    fn add(&mut self, lines: &[Line], run: Range<usize>, outcome: Outcome) {
        self.open -= run.len();
        if self.open == 0 {
            self.held = None;
        } else if let Some(held) = &mut self.held {
            held.give_back(run.len(), lines[run.clone()].iter().map(|line| line.bytes).sum());
        }
        self.fresh.push((run, outcome));
    }
}

/// Hands out the outcomes of a batch.
pub(crate) struct KafkaDelivery(pub(crate) Arc<Batch>);

#[async_trait]
impl Delivery for KafkaDelivery {
    async fn next(&mut self) -> Vec<(usize, Outcome)> {
        let mut outcomes = Vec::new();
        for (run, outcome) in self.next_runs().await {
            match outcome {
                Outcome::Delivered => outcomes.extend(run.map(|index| (index, Outcome::Delivered))),
                alone => outcomes.push((run.start, alone)),
            }
        }
        outcomes
    }

    async fn next_runs(&mut self) -> Vec<(Range<usize>, Outcome)> {
        loop {
            {
                let mut progress = lock(&self.0.progress);
                let fresh = mem::take(&mut progress.fresh);
                if !fresh.is_empty() || progress.open == 0 {
                    return fresh;
                }
            }
            self.0.news.notified().await;
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
