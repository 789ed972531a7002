//! What is known of the topics that messages go to.
//!
//! A topic is looked up when it is first written to. Its messages are kept until it is known; those of other topics pass.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use outbox_core::publisher::{PublishError, PublishErrorKind};
use tokio::sync::Notify;

use super::{
    delivery::{Batch, Body, Line},
    failure,
    producer::{Gate, is_topic_name},
    wire,
};

/// For how long a topic that cannot be used is not looked up again: every lookup costs a connection.
const COOLING: Duration = Duration::from_secs(1);

/// The same for one that the broker tells of and does not let us write to: that shows only when something is written,
/// and costs everybody the producer.
const FORBIDDEN: Duration = Duration::from_secs(5);

/// How old a limit may be to refuse a message by it. An operator may have raised it since.
const FRESH: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Catalogue {
    /// Whether batches are compressed: what is too large as it is may then pass all the same.
    compressed: bool,
    entries: RwLock<Entries>,
    /// A topic was looked up.
    changed: Notify,
}

#[derive(Default)]
struct Entries {
    topics: HashMap<Arc<str>, Entry>,
    looking: bool,
}

enum Entry {
    Usable {
        limit: Option<usize>,
        since: Instant,
    },
    Unusable {
        kind: PublishErrorKind,
        why: String,
        until: Instant,
    },
    /// Being looked up; what waits for it, in the order of acceptance.
    Unknown(Vec<Kept>),
}

/// A message that waits for its topic.
pub(crate) struct Kept {
    pub(crate) batch: Arc<Batch>,
    pub(crate) index: usize,
    pub(crate) body: Body,
}

/// What a lookup tells of a topic.
#[derive(Debug)]
pub(crate) enum Found {
    /// It can be written to. `limit`: its `max.message.bytes`, where that may be read.
    Usable {
        limit: Option<usize>,
    },
    Unusable {
        kind: PublishErrorKind,
        why: String,
    },
}

impl Catalogue {
    pub(crate) fn new(compressed: bool) -> Self {
        Self { compressed, ..Self::default() }
    }

    /// Held while queueing what passes, so that nothing overtakes what is kept.
    pub(crate) fn known(&self) -> Known<'_> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        Known { entries, compressed: self.compressed }
    }

    /// Held while queueing message by message.
    pub(crate) fn sift(&self) -> Sifting<'_> {
        Sifting { entries: self.write(), compressed: self.compressed }
    }

    /// Waits until the topic of a message that is not kept here is known. Cancel safe.
    ///
    /// Errors: why the message cannot be sent.
    pub(crate) async fn admit(&self, line: &Line, body: &Body, look_up: impl Fn()) -> Result<(), PublishError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let judged = self.sift().judge(line, body);
            match judged {
                Judgement::Passes => return Ok(()),
                Judgement::Refused(error) => return Err(error),
                Judgement::Unknown => look_up(),
            }
            changed.await;
        }
    }

    /// The topics to look up, if nobody does so yet. Who gets them has to call [`Catalogue::still_unknown`] until that
    /// is `None`.
    pub(crate) fn begin_lookup(&self) -> Option<Vec<Arc<str>>> {
        let mut entries = self.write();
        if entries.looking {
            return None;
        }
        entries.looking = true;
        drop(entries);
        self.still_unknown()
    }

    /// The topics that are not known yet; `None`: the lookup has ended.
    pub(crate) fn still_unknown(&self) -> Option<Vec<Arc<str>>> {
        let mut entries = self.write();
        let unknown = entries.topics.iter().filter(|(_, entry)| matches!(entry, Entry::Unknown(_)));
        let unknown: Vec<Arc<str>> = unknown.map(|(topic, _)| topic.clone()).collect();
        entries.looking = !unknown.is_empty();
        entries.looking.then_some(unknown)
    }

    /// The lookup could not even begin: what waits fails.
    pub(crate) fn cancel_lookup(&self, why: &'static str) {
        self.write().looking = false;
        self.give_up(why);
    }

    /// Looks the topic up again before it is next written to. Returns the limit that was known.
    pub(crate) fn forget(&self, topic: &str) -> Option<usize> {
        let mut entries = self.write();
        match entries.topics.get(topic) {
            Some(Entry::Usable { limit, .. }) => {
                let limit = *limit;
                entries.topics.remove(topic);
                limit
            }
            _ => None,
        }
    }

    /// A topic cannot be used: what waited for it fails.
    pub(crate) fn close(&self, topic: &Arc<str>, kind: PublishErrorKind, why: String) {
        self.close_for(COOLING, topic, kind, why);
    }

    /// The broker did not let us write to a topic.
    pub(crate) fn forbid(&self, topic: &Arc<str>, why: String) {
        self.close_for(FORBIDDEN, topic, PublishErrorKind::Environment, why);
    }

    fn close_for(&self, pause: Duration, topic: &Arc<str>, kind: PublishErrorKind, why: String) {
        let until = Instant::now() + pause;
        let entry = Entry::Unusable { kind, why: why.clone(), until };
        let before = self.write().topics.insert(topic.clone(), entry);
        if let Some(Entry::Unknown(kept)) = before {
            fail(kept, || PublishError::new(kind, why.clone()));
        }
        self.changed.notify_waiters();
    }

    /// Fails everything that waits.
    pub(crate) fn give_up(&self, why: &'static str) {
        let mut kept = Vec::new();
        for entry in self.write().topics.values_mut() {
            if let Entry::Unknown(some) = entry {
                kept.append(some);
            }
        }
        fail(kept, || failure::environment(why));
        self.changed.notify_waiters();
    }

    /// Waits until no message waits. Cancel safe.
    pub(crate) async fn emptied(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let keeps = |entry: &Entry| matches!(entry, Entry::Unknown(kept) if !kept.is_empty());
            if !self.known().entries.topics.values().any(keeps) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn notify(&self) {
        self.changed.notify_waiters();
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fail(kept: Vec<Kept>, error: impl Fn() -> PublishError) {
    for Kept { batch, index, .. } in kept {
        batch.fail(std::iter::once(index), &error);
    }
}

/// The topics as they are known now.
pub(crate) struct Known<'a> {
    entries: RwLockReadGuard<'a, Entries>,
    compressed: bool,
}

impl Known<'_> {
    /// Whether all messages of a batch may be queued as they are.
    pub(crate) fn pass(&self, batch: &Batch) -> bool {
        let mut last: Option<&Arc<str>> = None;
        batch.lines().iter().all(|line| {
            // Most batches have one topic, and often one name in memory.
            if last.is_some_and(|topic| Arc::ptr_eq(topic, &line.topic) || *topic == line.topic) {
                return true;
            }
            last = Some(&line.topic);
            match self.entries.topics.get(&line.topic) {
                Some(Entry::Usable { limit, .. }) => self.compressed || limit.is_none_or(|l| batch.largest() <= l),
                _ => false,
            }
        })
    }
}

/// The topics, to be changed.
pub(crate) struct Sifting<'a> {
    entries: RwLockWriteGuard<'a, Entries>,
    compressed: bool,
}

enum Judgement {
    Passes,
    Unknown,
    Refused(PublishError),
}

impl Sifting<'_> {
    /// Keeps the message if its topic is not known.
    pub(crate) fn gate(&mut self, batch: &Arc<Batch>, index: usize, body: Body) -> Gate {
        let line = batch.line(index);
        match self.judge(line, &body) {
            Judgement::Passes => Gate::Go(body),
            Judgement::Refused(error) => Gate::Refused(error),
            Judgement::Unknown => {
                if let Some(Entry::Unknown(kept)) = self.entries.topics.get_mut(&line.topic) {
                    kept.push(Kept { batch: batch.clone(), index, body });
                }
                Gate::Kept
            }
        }
    }

    fn judge(&mut self, line: &Line, body: &Body) -> Judgement {
        let topic = &line.topic;
        match self.entries.topics.get(topic) {
            Some(Entry::Usable { limit, since }) => {
                let bytes = wire::bytes_alone(line, body);
                match limit {
                    Some(limit) if !self.compressed && bytes > *limit => {
                        if since.elapsed() <= FRESH {
                            return Judgement::Refused(failure::too_large(bytes, *limit, topic));
                        }
                    }
                    _ => return Judgement::Passes,
                }
            }
            Some(Entry::Unusable { kind, why, until }) if Instant::now() < *until => {
                return Judgement::Refused(PublishError::new(*kind, why.clone()));
            }
            Some(Entry::Unknown(_)) => return Judgement::Unknown,
            Some(Entry::Unusable { .. }) | None => {}
        }
        // The producer refuses it without asking anybody.
        if !is_topic_name(topic) {
            return Judgement::Passes;
        }
        self.entries.topics.insert(topic.clone(), Entry::Unknown(Vec::new()));
        Judgement::Unknown
    }

    /// The same if nothing waits for it; otherwise nothing changes.
    pub(crate) fn open_unless_awaited(&mut self, topic: &Arc<str>, limit: Option<usize>) -> bool {
        let awaited = matches!(self.entries.topics.get(topic), Some(Entry::Unknown(kept)) if !kept.is_empty());
        if !awaited {
            self.open(topic, limit);
        }
        !awaited
    }

    /// A topic can be used: from now on its messages pass, once those returned are queued.
    pub(crate) fn open(&mut self, topic: &Arc<str>, limit: Option<usize>) -> Vec<Kept> {
        let entry = Entry::Usable { limit, since: Instant::now() };
        match self.entries.topics.insert(topic.clone(), entry) {
            Some(Entry::Unknown(kept)) => kept,
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::publisher::{Delivery, Message, Outcome};

    use super::*;
    use crate::publisher::delivery::KafkaDelivery;

    fn batch(messages: &[(&str, usize)]) -> (Arc<Batch>, Vec<Body>) {
        let message = |(topic, bytes): &(&str, usize)| Message {
            topic: (*topic).into(),
            key: "k".into(),
            payload: Some(vec![0; *bytes].into()),
            headers: Vec::new(),
        };
        Batch::new(messages.iter().map(message).collect(), Arc::default(), None)
    }

    /// What becomes of each message of a batch.
    fn gates(catalogue: &Catalogue, (batch, bodies): (Arc<Batch>, Vec<Body>)) -> Vec<Gate> {
        let mut sifting = catalogue.sift();
        bodies.into_iter().enumerate().map(|(index, body)| sifting.gate(&batch, index, body)).collect()
    }

    #[test]
    fn what_is_unknown_is_kept_and_what_is_known_passes() {
        let catalogue = Catalogue::default();
        let both = || batch(&[("a", 1), ("b", 1), ("a", 1)]);
        assert!(catalogue.sift().open(&"a".into(), None).is_empty());
        assert!(!catalogue.known().pass(&both().0), "b is not known");
        assert!(matches!(gates(&catalogue, both())[..], [Gate::Go(_), Gate::Kept, Gate::Go(_)]));
        assert_eq!(catalogue.begin_lookup(), Some(vec!["b".into()]));
        assert_eq!(catalogue.begin_lookup(), None, "one at a time");
        let kept: Vec<usize> = catalogue.sift().open(&"b".into(), None).iter().map(|kept| kept.index).collect();
        assert_eq!(kept, [1]);
        assert_eq!(catalogue.still_unknown(), None);
        assert!(catalogue.known().pass(&both().0));
    }

    #[test]
    fn only_what_a_fresh_limit_rules_out_is_refused() {
        let catalogue = Catalogue::default();
        catalogue.sift().open(&"a".into(), Some(1_000));
        let large = || batch(&[("a", 1_000)]);
        assert!(catalogue.known().pass(&batch(&[("a", 500)]).0));
        assert!(!catalogue.known().pass(&large().0));
        let Some(Gate::Refused(error)) = gates(&catalogue, large()).pop() else { panic!("let through") };
        assert_eq!(error.kind(), PublishErrorKind::Event);
        assert!(error.to_string().contains("the 1000 of max.message.bytes"), "{error}");

        let since = Instant::now().checked_sub(2 * FRESH).expect("the clock has run that long");
        catalogue.write().topics.insert("a".into(), Entry::Usable { limit: Some(1_000), since });
        assert!(matches!(gates(&catalogue, large())[..], [Gate::Kept]), "looked up again");

        let compressed = Catalogue::new(true);
        compressed.sift().open(&"a".into(), Some(1_000));
        assert!(compressed.known().pass(&large().0), "it may be small enough compressed");
    }

    #[tokio::test]
    async fn a_topic_that_cannot_be_used_fails_its_messages_until_it_is_looked_up_again() {
        let catalogue = Catalogue::default();
        let (waiting, bodies) = batch(&[("a", 1), ("a", 1)]);
        gates(&catalogue, (waiting.clone(), bodies));
        catalogue.close(&"a".into(), PublishErrorKind::Environment, "no such topic".to_owned());
        let mut delivery = KafkaDelivery(waiting);
        let outcomes = delivery.next().await;
        assert!(matches!(&outcomes[..], [(0, Outcome::Failed(_)), (1, Outcome::Aborted)]), "{outcomes:?}");
        assert!(matches!(gates(&catalogue, batch(&[("a", 1)]))[..], [Gate::Refused(_)]));
        if let Some(Entry::Unusable { until, .. }) = catalogue.write().topics.get_mut("a") {
            *until = Instant::now();
        }
        assert!(matches!(gates(&catalogue, batch(&[("a", 1)]))[..], [Gate::Kept]));
    }
}
