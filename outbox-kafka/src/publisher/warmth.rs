//! Which partitions have heard of a producer.
//!
//! A broker refuses a sequence number that leaves a gap, so nothing is written behind a refused request, though it was on
//! its way already. But of a producer it knows nothing of in a partition it takes any number as the first
//! (`ProducerAppendInfo.checkSequence` of Apache Kafka: "accept writes with any sequence number"). If the very first
//! request is refused then, what follows it is written, and has overtaken it. So until a partition has acknowledged
//! something, no second message of a key is handed over while the first is under way.
//!
//! Which partition a key belongs to is librdkafka's affair: keys are waited for, and reports tell partitions. A topic all
//! of whose partitions are warm needs none of this any more.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use outbox_core::publisher::PublishError;

use super::{
    catalogue::Kept,
    delivery::{Batch, Body, lock},
};

/// What one producer knows of its topics.
#[derive(Default)]
pub(crate) struct Warmth {
    /// Some topic has partitions that were not written to.
    is_needed: AtomicBool,
    /// Topics all of whose partitions are warm.
    warm: RwLock<HashSet<Arc<str>>>,
    topics: Mutex<HashMap<Arc<str>, Topic>>,
}

#[derive(Default)]
struct Topic {
    /// All partitions are warm.
    is_warm: bool,
    /// How many there are, once that is known.
    partitions: Option<usize>,
    warm: BTreeSet<i32>,
    /// Keys of warm partitions, as far as they are remembered.
    keys: HashSet<Bytes>,
    /// The first message of each of these keys is under way, and these wait for it.
    waiting: HashMap<Bytes, VecDeque<Waiting>>,
    /// Keys whose first message was reported.
    reported: Vec<Bytes>,
}

/// What comes behind the first message of a key.
pub(crate) enum Waiting {
    Message(Kept),
    /// One that is refused in its turn: before, it would break its key under the messages in front of it.
    Refused(Arc<Batch>, usize, PublishError),
}

/// So many keys are remembered of a topic some of whose partitions stay cold.
const KEYS: usize = 10_000;

impl Warmth {
    /// Whether all topics of a batch are warm, as most are most of the time.
    pub(crate) fn is_warm_for(&self, batch: &Batch) -> bool {
        let warm = self.warm.read().unwrap_or_else(PoisonError::into_inner);
        let mut last: Option<&Arc<str>> = None;
        batch.lines().iter().all(|line| {
            let same = last.is_some_and(|topic| Arc::ptr_eq(topic, &line.topic));
            last = Some(&line.topic);
            same || warm.contains(&line.topic)
        })
    }

    /// For the messages of one batch.
    pub(crate) fn sift(&self) -> Warming<'_> {
        Warming { warmth: self, topics: lock(&self.topics) }
    }

    /// Whether reports say anything new.
    pub(crate) fn is_needed(&self) -> bool {
        self.is_needed.load(Ordering::Acquire)
    }

    /// A message of this key was reported, and where it was or would have been written.
    pub(crate) fn reported(&self, topic: &str, key: &[u8], partition: i32, delivered: bool) {
        let mut topics = lock(&self.topics);
        let Some(found) = topics.get_mut(topic).filter(|found| !found.is_warm) else { return };
        if delivered {
            found.warm.insert(partition);
            if found.keys.len() >= KEYS {
                found.keys.clear();
            }
            if !found.keys.contains(key) {
                found.keys.insert(Bytes::copy_from_slice(key));
            }
        }
        if let Some((key, _)) = found.waiting.get_key_value(key) {
            let key = key.clone();
            found.reported.push(key);
        }
    }

    /// Hands what need not wait any more to `send`, in order. `partitions` finds out how many a topic has.
    pub(crate) fn release(&self, partitions: impl Fn(&str) -> Option<usize>, mut send: impl FnMut(Waiting)) {
        if !self.is_needed() {
            return;
        }
        let mut topics = lock(&self.topics);
        for (name, topic) in topics.iter_mut() {
            if topic.reported.is_empty() {
                continue;
            }
            for key in std::mem::take(&mut topic.reported) {
                topic.waiting.remove(&key).into_iter().flatten().for_each(&mut send);
            }
            topic.partitions = topic.partitions.or_else(|| partitions(name));
            if topic.partitions.is_some_and(|all| topic.warm.len() >= all) {
                // Behind the first message of each key, which is under way to a partition that knows the producer.
                std::mem::take(&mut topic.waiting).into_values().flatten().for_each(&mut send);
                *topic = Topic { is_warm: true, ..Topic::default() };
                self.warm.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
            }
        }
        if topics.values().all(|topic| topic.is_warm) {
            self.is_needed.store(false, Ordering::Release);
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_needed() || lock(&self.topics).values().all(|topic| topic.waiting.values().all(VecDeque::is_empty))
    }

    /// What still waits, of each key in order: the producer has ended.
    pub(crate) fn drain(&self) -> Vec<Waiting> {
        let mut topics = lock(&self.topics);
        topics.values_mut().flat_map(|topic| std::mem::take(&mut topic.waiting).into_values().flatten()).collect()
    }
}

/// The topics, while a batch is sent.
pub(crate) struct Warming<'a> {
    warmth: &'a Warmth,
    topics: MutexGuard<'a, HashMap<Arc<str>, Topic>>,
}

impl Warming<'_> {
    pub(crate) fn is_warm(&self, topic: &str) -> bool {
        self.topics.get(topic).is_some_and(|topic| topic.is_warm)
    }

    /// The body again if the message may go; else it is kept behind another of its key.
    pub(crate) fn admit(&mut self, batch: &Arc<Batch>, index: usize, body: Body) -> Option<Body> {
        let line = batch.line(index);
        if !self.topics.contains_key(&line.topic) {
            self.topics.insert(line.topic.clone(), Topic::default());
            self.warmth.is_needed.store(true, Ordering::Release);
        }
        let Some(topic) = self.topics.get_mut(&line.topic) else { return Some(body) };
        if topic.is_warm {
            return Some(body);
        }
        // Also when the first of the key was reported: what waited for it has to be on its way before.
        if let Some(waiting) = topic.waiting.get_mut(&line.key) {
            waiting.push_back(Waiting::Message(Kept { batch: batch.clone(), index, body }));
            return None;
        }
        if topic.keys.contains(&line.key) {
            return Some(body);
        }
        topic.waiting.insert(line.key.clone(), VecDeque::new());
        Some(body)
    }

    /// The error again if the message fails at once; else it waits for its turn.
    pub(crate) fn refuse(&mut self, batch: &Arc<Batch>, index: usize, error: PublishError) -> Option<PublishError> {
        let line = batch.line(index);
        match self.topics.get_mut(&line.topic).and_then(|topic| topic.waiting.get_mut(&line.key)) {
            Some(waiting) if !waiting.is_empty() => {
                waiting.push_back(Waiting::Refused(batch.clone(), index, error));
                None
            }
            _ => Some(error),
        }
    }

    /// A message that was admitted was not queued after all.
    pub(crate) fn withdraw(&mut self, topic: &str, key: &Bytes) {
        if let Some(topic) = self.topics.get_mut(topic)
            && topic.waiting.contains_key(key)
        {
            topic.reported.push(key.clone());
        }
    }
}
