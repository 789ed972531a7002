//! What became of the messages of one permit, and which keys of a stream are broken.

use std::{
    collections::HashSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::publisher::{Delivery, Message, Outcome, PublishError};
use tokio::sync::Notify;

use super::capacity::Held;

/// The keys of a stream of which a message failed. What comes behind it may not be written any more: it would overtake
/// the failed one.
#[derive(Debug, Default)]
pub(crate) struct Broken(Mutex<HashSet<Place>>);

/// Messages of one place keep their order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) topic: Arc<str>,
    key: Bytes,
}

impl Broken {
    fn contains(&self, place: &Place) -> bool {
        let broken = lock(&self.0);
        !broken.is_empty() && broken.contains(place)
    }

    fn insert(&self, place: &Place) {
        lock(&self.0).insert(place.clone());
    }
}

/// The messages of one permit, shared by their sender, the delivery callback and whoever waits for the outcomes.
pub(crate) struct Batch {
    lines: Vec<Line>,
    broken: Arc<Broken>,
    progress: Mutex<Progress>,
    news: Notify,
}

struct Line {
    place: Place,
    bytes: usize,
}

struct Progress {
    resolved: Vec<bool>,
    open: usize,
    fresh: Vec<(usize, Outcome)>,
    held: Held,
}

impl Batch {
    pub(crate) fn new(messages: &[Message], broken: Arc<Broken>, mut held: Held) -> Arc<Self> {
        let lines: Vec<Line> = messages
            .iter()
            .map(|m| Line { place: Place { topic: m.topic.clone(), key: m.key.clone() }, bytes: m.bytes() })
            .collect();
        held.shrink_to(lines.len(), lines.iter().map(|line| line.bytes).sum());
        let progress = Progress { resolved: vec![false; lines.len()], open: lines.len(), fresh: Vec::new(), held };
        Arc::new(Self { lines, broken, progress: Mutex::new(progress), news: Notify::new() })
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn place(&self, index: usize) -> &Place {
        &self.lines[index].place
    }

    pub(crate) fn bytes(&self, index: usize) -> usize {
        self.lines[index].bytes
    }

    /// Whether an earlier message of the same place failed.
    pub(crate) fn is_broken(&self, index: usize) -> bool {
        self.broken.contains(self.place(index))
    }

    /// Records an outcome; of two for the same message the first counts.
    pub(crate) fn resolve(&self, index: usize, outcome: Outcome) {
        let mut progress = lock(&self.progress);
        if mem::replace(&mut progress.resolved[index], true) {
            return;
        }
        progress.open -= 1;
        progress.held.give_back(self.bytes(index));
        if matches!(outcome, Outcome::Failed(_)) {
            self.broken.insert(self.place(index));
        }
        progress.fresh.push((index, outcome));
        drop(progress);
        self.news.notify_one();
    }

    /// Fails what is left: each key's first message with `error`, the later ones as aborted.
    pub(crate) fn fail_from(&self, first: usize, error: impl Fn() -> PublishError) {
        for index in first..self.len() {
            let outcome = if self.is_broken(index) { Outcome::Aborted } else { Outcome::Failed(error()) };
            self.resolve(index, outcome);
        }
    }

    pub(crate) fn is_open(&self, index: usize) -> bool {
        !lock(&self.progress).resolved[index]
    }

    /// How many messages have no outcome yet.
    pub(crate) fn open(&self) -> usize {
        lock(&self.progress).open
    }
}

/// Hands out the outcomes of a batch.
pub(crate) struct KafkaDelivery(pub(crate) Arc<Batch>);

#[async_trait]
impl Delivery for KafkaDelivery {
    async fn next(&mut self) -> Vec<(usize, Outcome)> {
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
