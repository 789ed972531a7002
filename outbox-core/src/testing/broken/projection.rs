use std::sync::Mutex;

use async_trait::async_trait;

use super::assert_caught;
use crate::{
    event::{LogId, Origin, ReceivedEvent, Sequence},
    memory::{MemoryProjection, Verdict},
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, Step},
    source::{Partition, SourcePosition},
    testing::{
        number_of,
        projection::{self as suite, ProjectionHarness},
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// Nothing tells a duplicate.
    NoWatermark,
    /// Only the event before is remembered, so that a late duplicate passes.
    RemembersOneId,
    /// One watermark for all keys.
    OneWatermark,
    /// A watermark is compared with sequences of any log.
    MixesLogs,
    /// The aggregate's id tells what is old, not the ordering key.
    IgnoresOrderingKeys,
    /// The position is moved before the effects are made.
    PositionFirst,
    /// A step is applied from wherever it begins.
    IgnoresFrom,
}

struct Harness(Broken);

struct Broken {
    inner: MemoryProjection,
    flaw: Flaw,
    highest: Mutex<Option<Sequence>>,
    last_id: Mutex<Option<uuid::Uuid>>,
}

impl Harness {
    fn with(flaw: Flaw) -> Self {
        let inner = MemoryProjection::new("suite").with_rule(|event| match number_of(event) {
            _ if event.event_type.as_str() != "Counted" => Verdict::Ignore,
            Some(_) => Verdict::Apply,
            None => Verdict::Reject("it carries no number".into()),
        });
        Self(Broken { inner, flaw, highest: Mutex::default(), last_id: Mutex::default() })
    }
}

#[async_trait]
impl ProjectionHarness for Harness {
    type Projection = Broken;

    fn projection(&self) -> &Broken {
        &self.0
    }

    async fn effects(&self, aggregate_type: &str, key: &str) -> Vec<u64> {
        self.0.inner.events(aggregate_type, key).iter().filter_map(|received| number_of(&received.event)).collect()
    }
}

impl Broken {
    /// What reaches the sound projection inside.
    fn tamper(&self, events: &[ReceivedEvent]) -> Vec<ReceivedEvent> {
        let reaching = events.iter().filter(|received| !self.takes_for_duplicate(received));
        reaching.cloned().map(|received| self.disguise(received)).collect()
    }

    fn takes_for_duplicate(&self, received: &ReceivedEvent) -> bool {
        match self.flaw {
            Flaw::RemembersOneId => {
                let id = received.event.id;
                self.last_id.lock().expect("no panic while held").replace(id) == Some(id)
            }
            Flaw::OneWatermark => {
                let sequence = received.origin.map(|origin| origin.sequence);
                let mut highest = self.highest.lock().expect("no panic while held");
                let old = *highest >= sequence;
                *highest = (*highest).max(sequence);
                old
            }
            _ => false,
        }
    }

    fn disguise(&self, mut received: ReceivedEvent) -> ReceivedEvent {
        match self.flaw {
            // A new identity, so that the projection inside takes a duplicate for new.
            Flaw::NoWatermark | Flaw::RemembersOneId => {
                received.origin = None;
                received.event.id = uuid::Uuid::now_v7();
            }
            Flaw::MixesLogs => {
                received.origin = received.origin.map(|origin| Origin { log: LogId(uuid::Uuid::nil()), ..origin });
            }
            Flaw::IgnoresOrderingKeys => received.event.ordering_key = None,
            _ => {}
        }
        received
    }
}

#[async_trait]
impl Projection for Broken {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        self.inner.capabilities()
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        self.inner.position(partition).await
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let events = self.tamper(step.events);
        let dropped = step.events.len() - events.len();
        let kept = self.inner.position(step.partition).await?;
        let mut step = Step { events: &events, raws: &[], ..step };
        match self.flaw {
            Flaw::PositionFirst => {
                self.inner.apply(Step { events: &[], raws: &[], ..step }).await?;
                step.from = Some(step.to);
            }
            Flaw::IgnoresFrom => step.from = kept.as_ref(),
            _ => {}
        }
        let mut applied = self.inner.apply(step).await?;
        applied.duplicates += dropped;
        Ok(applied)
    }
}

crate::projection_suite!(without_a_flaw, || async { Harness::with(Flaw::None) });

#[tokio::test]
async fn a_projection_without_a_watermark_is_caught() {
    let harness = Harness::with(Flaw::NoWatermark);
    assert_caught(suite::the_same_events_again_change_nothing(&harness), "left == right").await;
    let harness = Harness::with(Flaw::NoWatermark);
    assert_caught(suite::a_duplicate_within_a_step_changes_nothing(&harness), "left == right").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_catch_what_late_duplicates_break() {
    for flaw in [Flaw::NoWatermark, Flaw::RemembersOneId, Flaw::OneWatermark] {
        let harness = Harness::with(flaw);
        assert_caught(suite::random_duplicates_change_nothing(&harness), "every event is applied once").await;
    }
}

#[tokio::test]
async fn a_projection_that_remembers_one_event_is_caught() {
    let harness = Harness::with(Flaw::RemembersOneId);
    let case = suite::an_older_duplicate_behind_newer_events_changes_nothing(&harness);
    assert_caught(case, "left == right").await;
}

#[tokio::test]
async fn a_watermark_of_the_wrong_scope_is_caught() {
    let harness = Harness::with(Flaw::OneWatermark);
    assert_caught(suite::keys_do_not_hide_each_other(&harness), "left == right").await;
    let harness = Harness::with(Flaw::IgnoresOrderingKeys);
    assert_caught(suite::an_ordering_key_decides_what_is_old(&harness), "left == right").await;
    let harness = Harness::with(Flaw::MixesLogs);
    assert_caught(suite::sequences_of_different_logs_are_not_compared(&harness), "left == right").await;
}

#[tokio::test]
async fn a_projection_that_moves_its_position_first_is_caught() {
    let harness = Harness::with(Flaw::PositionFirst);
    assert_caught(suite::a_rejected_step_changes_nothing(&harness), "left == right").await;
}

#[tokio::test]
async fn a_projection_that_ignores_where_a_step_begins_is_caught() {
    let harness = Harness::with(Flaw::IgnoresFrom);
    assert_caught(suite::a_step_from_elsewhere_is_a_conflict(&harness), "from a position never reached").await;
    let harness = Harness::with(Flaw::IgnoresFrom);
    assert_caught(suite::of_two_that_apply_one_step_one_wins(&harness), "one of two succeeds").await;
}
