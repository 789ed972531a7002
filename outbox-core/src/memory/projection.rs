//! A read model in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;

use super::lock;
use crate::{
    event::{AggregateType, Event, LogId, ReceivedEvent, Sequence},
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};

/// Keeps every event of a key in a list, with the position and the last sequence of each key. Appending does not
/// commute: an event applied twice or out of order shows. Cloning yields another handle on the same store.
#[derive(Clone)]
pub struct MemoryProjection {
    name: Arc<str>,
    rule: Rule,
    store: Arc<Mutex<Store>>,
}

type Rule = Arc<dyn Fn(&Event) -> Verdict + Send + Sync>;

/// What a [`MemoryProjection`] is to do with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Append it.
    Apply,
    /// Skip it, as a type the projection does not know.
    Ignore,
    /// Refuse its step, for this reason.
    Reject(String),
}

#[derive(Debug, Clone, Default)]
struct Store {
    lists: HashMap<Key, Vec<ReceivedEvent>>,
    watermarks: HashMap<(LogId, Key), Option<Sequence>>,
    positions: HashMap<Partition, SourcePosition>,
}

/// An aggregate type, and a message key (lists) or lane key (watermarks).
type Key = (AggregateType, String);

impl std::fmt::Debug for MemoryProjection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryProjection").field("name", &self.name).finish_non_exhaustive()
    }
}

impl MemoryProjection {
    /// An empty store that applies every event.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), rule: Arc::new(|_| Verdict::Apply), store: Arc::default() }
    }

    /// Decides about events by this rule.
    #[must_use]
    pub fn with_rule(mut self, rule: impl Fn(&Event) -> Verdict + Send + Sync + 'static) -> Self {
        self.rule = Arc::new(rule);
        self
    }

    /// The events applied of this aggregate type and message key, in order.
    #[must_use]
    pub fn events(&self, aggregate_type: &str, key: &str) -> Vec<ReceivedEvent> {
        let Ok(aggregate_type) = AggregateType::parse(aggregate_type) else { return Vec::new() };
        lock(&self.store).lists.get(&(aggregate_type, key.to_owned())).cloned().unwrap_or_default()
    }

    /// How many events were applied in all.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.store).lists.values().map(Vec::len).sum()
    }

    /// Whether no event was applied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[async_trait]
impl Projection for MemoryProjection {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        ProjectionCapabilities::new(true)
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        Ok(lock(&self.store).positions.get(partition).cloned())
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let verdicts = self.verdicts(step.events)?;
        // From here nothing fails but a conflict, which is found first: effects and position change under one lock.
        let mut store = lock(&self.store);
        if store.positions.get(step.partition) != step.from {
            let message = format!("{} has moved on from where the step begins; read its position", step.partition);
            return Err(ProjectionError::new(ProjectionErrorKind::Conflict, message));
        }
        let mut applied = Applied::default();
        for (received, verdict) in step.events.iter().zip(verdicts) {
            match verdict {
                Verdict::Apply if store.append(received) => applied.applied += 1,
                Verdict::Apply => applied.duplicates += 1,
                Verdict::Ignore | Verdict::Reject(_) => applied.ignored += 1,
            }
        }
        store.positions.insert(step.partition.clone(), step.to.clone());
        Ok(applied)
    }
}

impl MemoryProjection {
    fn verdicts(&self, events: &[ReceivedEvent]) -> Result<Vec<Verdict>, ProjectionError> {
        let judge = |received: &ReceivedEvent| match (self.rule)(&received.event) {
            Verdict::Reject(reason) => {
                let message = format!("event {} is rejected: {reason}", received.event.id);
                Err(ProjectionError::new(ProjectionErrorKind::Rejected, message))
            }
            verdict => Ok(verdict),
        };
        events.iter().map(judge).collect()
    }
}

impl Store {
    /// Whether it was new. Without an origin, as from another writer, an event is told apart by its id.
    fn append(&mut self, received: &ReceivedEvent) -> bool {
        let key = (received.event.aggregate_type.clone(), received.event.message_key().to_owned());
        let list = self.lists.entry(key).or_default();
        let new = match received.origin {
            Some(origin) => {
                let series = (received.event.aggregate_type.clone(), received.event.lane_key().into_owned());
                let watermark = self.watermarks.entry((origin.log, series)).or_insert(None);
                let new = *watermark < Some(origin.sequence);
                *watermark = (*watermark).max(Some(origin.sequence));
                new
            }
            None => list.iter().all(|known| known.event.id != received.event.id),
        };
        if new {
            list.push(received.clone());
        }
        new
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::{number_of, projection::ProjectionHarness};

    struct Harness(MemoryProjection);

    impl Harness {
        #[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
        async fn fresh() -> Self {
            Self(MemoryProjection::new("suite").with_rule(|event| match number_of(event) {
                _ if event.event_type.as_str() != "Counted" => Verdict::Ignore,
                Some(_) => Verdict::Apply,
                None => Verdict::Reject("it carries no number".into()),
            }))
        }
    }

    #[async_trait]
    impl ProjectionHarness for Harness {
        type Projection = MemoryProjection;

        fn projection(&self) -> &MemoryProjection {
            &self.0
        }

        async fn effects(&self, aggregate_type: &str, key: &str) -> Vec<u64> {
            self.0.events(aggregate_type, key).iter().filter_map(|received| number_of(&received.event)).collect()
        }
    }

    crate::projection_suite!(conformance, Harness::fresh);

    #[tokio::test]
    async fn without_an_origin_the_id_tells_duplicates() {
        let projection = MemoryProjection::new("plain");
        let event = crate::event::NewEvent::tombstone("Tutor", 1, "Erased").expect("event").into_event();
        let events = [(); 2].map(|()| ReceivedEvent { origin: None, event: event.clone() });
        let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
        let step = Step::new(&partition, None, &to, &events);
        let applied = projection.apply(step).await.expect("apply");
        assert_eq!((applied.applied, applied.duplicates, projection.len()), (1, 1, 1));
    }
}
