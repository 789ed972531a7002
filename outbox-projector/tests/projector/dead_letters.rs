//! What the runner does with records that cannot be applied, and where they go.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::{
    event::{Event, ReceivedEvent},
    memory::{MemoryBroker, MemoryProjection, Verdict},
    profile::{Decoder, Profile, SeedEnvelope},
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    publisher::{Message, PublishErrorKind},
    source::{Partition, SourcePosition},
    testing::{FaultyPublisher, Sequencer, number_of},
};
use outbox_projector::{
    PartitionState, ProjectorStatus,
    dead_letters::{TopicDeadLetters, header},
};
use tokio::time::Instant;

use crate::support::{Running, counted, projector};

const LETTERS: &str = "dead-letters";

#[derive(Default)]
struct Topics {
    broker: MemoryBroker,
    log: Sequencer,
}

impl Topics {
    fn write(&self, key: &str, n: i64) -> Message {
        let mut message = Profile::default().message(&self.log.record(counted(key, n))).expect("message");
        message.topic = "a".into();
        self.broker.write(message.clone());
        message
    }

    fn write_garbage(&self) -> Message {
        let headers = vec![("trace".into(), Bytes::from_static(b"1"))];
        let payload = Some(Bytes::from_static(b"\xffno event"));
        let message = Message { topic: "a".into(), key: Bytes::from_static(b"k"), payload, headers };
        self.broker.write(message.clone());
        message
    }

    fn source(&self) -> outbox_core::memory::MemorySource {
        self.broker.source("group", ["a"], SeedEnvelope)
    }

    fn letters(&self) -> Arc<TopicDeadLetters> {
        Arc::new(TopicDeadLetters::new(Arc::new(self.broker.publisher()), LETTERS))
    }
}

fn refusing(bad: impl Fn(u64) -> bool + Send + Sync + 'static) -> MemoryProjection {
    MemoryProjection::new("model").with_rule(move |event: &Event| match number_of(event) {
        Some(n) if bad(n) => Verdict::Reject(format!("{n} is bad")),
        _ => Verdict::Apply,
    })
}

fn numbers(projection: &MemoryProjection, key: &str) -> Vec<u64> {
    projection.events("Suite", key).iter().filter_map(|e| number_of(&e.event)).collect()
}

fn text<'m>(message: &'m Message, name: &str) -> &'m str {
    let (_, value) = message.headers.iter().find(|(n, _)| &**n == name).expect("the header");
    std::str::from_utf8(value).expect("text")
}

fn paused(status: &ProjectorStatus) -> bool {
    status.partitions.values().any(|p| p.paused_until.is_some() && p.error.is_some())
}

#[tokio::test]
async fn what_cannot_be_decoded_or_applied_goes_to_the_topic_as_it_came_and_the_rest_flows() {
    let topics = Topics::default();
    topics.write("key", 0);
    let garbage = topics.write_garbage();
    let bad = topics.write("key", 1);
    for n in 2..5 {
        topics.write("key", n);
    }
    let projection = refusing(|n| n == 1);
    let builder = projector(topics.source(), Arc::new(projection.clone())).dead_letters(topics.letters());
    let mut running = Running::start(builder);
    let status = running.until_applied(4).await;
    running.stop().await.expect("run");
    assert_eq!(numbers(&projection, "key"), [0, 2, 3, 4]);
    assert_eq!(status.partitions[&Partition::new("memory/a")].dead_letters, 2);
    assert!(!status.needs_action());

    let letters = topics.broker.messages(LETTERS);
    for (letter, original) in letters.iter().zip([&garbage, &bad]) {
        assert_eq!((&letter.key, &letter.payload), (&original.key, &original.payload));
        assert!(letter.headers.starts_with(&original.headers), "its own headers come first, unchanged");
        assert_eq!(text(letter, header::PROJECTION), "model");
        assert!(text(letter, header::AT).ends_with('Z'));
    }
    let facts = |n: usize| [header::CAUSE, header::PLACE, header::ATTEMPTS].map(|name| text(&letters[n], name));
    assert_eq!(facts(0), ["undecodable", "memory/a@1", "0"]);
    assert_eq!(facts(1), ["rejected", "memory/a@2", "1"]);
    assert!(text(&letters[1], header::REASON).contains("1 is bad"), "{}", text(&letters[1], header::REASON));
    let decoded = SeedEnvelope.decode(None, letters[1].payload.as_ref(), &letters[1].headers).expect("as it came");
    assert_eq!(number_of(&decoded.event), Some(1));
    assert_eq!(letters.len(), 2);
}

/// Fails as it is told, and says which event is at fault only when it is told to.
struct Failing {
    inner: MemoryProjection,
    how: fn(u64) -> Option<ProjectionErrorKind>,
    says_which: bool,
    tries: AtomicUsize,
    steps: Mutex<Vec<usize>>,
}

#[async_trait]
impl Projection for Failing {
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
        self.steps.lock().expect("lock").push(step.events.len());
        for (index, received) in step.events.iter().enumerate() {
            let raw = step.raw(index).expect("what it was decoded from");
            let decoded = SeedEnvelope.decode(raw.key.as_ref(), raw.payload.as_ref(), &raw.headers);
            assert_eq!(decoded.expect("its own record"), *received);
        }
        let fails = |received: &ReceivedEvent| number_of(&received.event).and_then(self.how);
        if let Some((index, kind)) = step.events.iter().enumerate().find_map(|(n, e)| Some((n, fails(e)?))) {
            self.tries.fetch_add(1, Ordering::Relaxed);
            let error = ProjectionError::new(kind, "it fails");
            return Err(if self.says_which { error.at(index) } else { error });
        }
        self.inner.apply(step).await
    }
}

fn failing(says_which: bool, how: fn(u64) -> Option<ProjectionErrorKind>) -> Arc<Failing> {
    let inner = MemoryProjection::new("model");
    Arc::new(Failing { inner, how, says_which, tries: AtomicUsize::new(0), steps: Mutex::default() })
}

#[tokio::test]
async fn the_event_at_fault_is_found_when_nobody_says_which_it_is() {
    let topics = Topics::default();
    for n in 0..10 {
        topics.write("key", n);
    }
    let projection = failing(false, |n| (n == 3 || n == 7).then_some(ProjectionErrorKind::Rejected));
    let builder = projector(topics.source(), projection.clone()).dead_letters(topics.letters());
    let mut running = Running::start(builder);
    running.until_applied(8).await;
    running.stop().await.expect("run");
    assert_eq!(numbers(&projection.inner, "key"), [0, 1, 2, 4, 5, 6, 8, 9]);
    let letters = topics.broker.messages(LETTERS);
    assert_eq!(letters.iter().map(|l| text(l, header::PLACE)).collect::<Vec<_>>(), ["memory/a@3", "memory/a@7"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_always_fails_is_tried_so_often_and_then_given_up() {
    let topics = Topics::default();
    for n in 0..3 {
        topics.write("key", n);
    }
    for says_which in [true, false] {
        let projection = failing(says_which, |n| (n == 1).then_some(ProjectionErrorKind::Failed));
        let attempts = NonZeroU32::new(4).expect("four");
        let source = topics.broker.source(format!("group-{says_which}"), ["a"], SeedEnvelope);
        let builder = projector(source, projection.clone()).attempts(attempts).dead_letters(topics.letters());
        let mut running = Running::start(builder);
        running.until_applied(2).await;
        running.stop().await.expect("run");
        assert_eq!(numbers(&projection.inner, "key"), [0, 2]);
        let letters = topics.broker.messages(LETTERS);
        assert_eq!(text(letters.last().expect("a letter"), header::ATTEMPTS), "4");
        let finding_it = usize::from(!says_which);
        assert_eq!(projection.tries.load(Ordering::Relaxed), 4 + finding_it);
    }
}

/// Tries are an event's own: what its neighbours failed does not count against it.
#[tokio::test(start_paused = true)]
async fn events_that_fail_now_and_then_are_not_given_up_for_each_other() {
    static LEFT: [AtomicUsize; 6] = [const { AtomicUsize::new(2) }; 6];
    let topics = Topics::default();
    for n in 0..6 {
        topics.write("key", n);
    }
    let projection = failing(true, |n| {
        let left = LEFT[n as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.is_ok().then_some(ProjectionErrorKind::Failed)
    });
    let three = NonZeroU32::new(3).expect("three");
    let builder = projector(topics.source(), projection.clone()).attempts(three).dead_letters(topics.letters());
    let mut running = Running::start(builder);
    running.until_applied(6).await;
    running.stop().await.expect("run");
    assert_eq!(numbers(&projection.inner, "key"), [0, 1, 2, 3, 4, 5]);
    assert!(topics.broker.messages(LETTERS).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_makes_no_dead_letters_however_long() {
    static AWAY: AtomicUsize = AtomicUsize::new(200);
    let topics = Topics::default();
    topics.write("key", 1);
    let projection = failing(true, |_| {
        let still = AWAY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        still.is_ok().then_some(ProjectionErrorKind::Unavailable)
    });
    let builder = projector(topics.source(), projection.clone()).dead_letters(topics.letters());
    let mut running = Running::start(builder);
    running.until_applied(1).await;
    running.stop().await.expect("run");
    assert_eq!(numbers(&projection.inner, "key"), [1]);
    assert!(topics.broker.messages(LETTERS).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_becomes_a_dead_letter_and_the_rest_flows() {
    let topics = Topics::default();
    for n in 0..4 {
        topics.write("key", n);
    }
    let projection = failing(true, |n| {
        assert!(n != 2, "number {n} is more than I can bear");
        None
    });
    let builder = projector(topics.source(), projection.clone()).dead_letters(topics.letters());
    let mut running = Running::start(builder);
    running.until_applied(3).await;
    running.stop().await.expect("run");
    assert_eq!(numbers(&projection.inner, "key"), [0, 1, 3]);
    let letter = topics.broker.messages(LETTERS).remove(0);
    assert!(text(&letter, header::REASON).contains("number 2 is more than I can bear"));
}

#[tokio::test(start_paused = true)]
async fn while_the_topic_cannot_be_reached_the_partition_waits_and_nothing_is_dropped() {
    let topics = Topics::default();
    topics.write("key", 0);
    topics.write("key", 1);
    topics.write("key", 2);
    let publisher = Arc::new(FaultyPublisher::new(topics.broker.publisher()));
    publisher.fail_next(3, PublishErrorKind::Environment);
    let letters = Arc::new(TopicDeadLetters::new(publisher.clone(), LETTERS));
    let projection = refusing(|n| n == 1);
    let builder = projector(topics.source(), Arc::new(projection.clone())).dead_letters(letters);
    let mut running = Running::start(builder);
    running.until("it waits for the topic", paused).await;
    assert_eq!(numbers(&projection, "key"), [0], "nothing behind it takes effect before it is in a safe place");
    running.until_applied(2).await;
    running.stop().await.expect("run");
    assert_eq!(numbers(&projection, "key"), [0, 2]);
    assert_eq!(topics.broker.messages(LETTERS).len(), 1, "written once");
}

/// What was tried by itself, and what came behind it, is not taken for a duplicate when it comes again.
#[tokio::test(start_paused = true)]
async fn a_crash_before_the_letter_is_written_loses_nothing() {
    let topics = Topics::default();
    for n in 0..4 {
        topics.write("key", n);
    }
    let publisher = Arc::new(FaultyPublisher::new(topics.broker.publisher()));
    publisher.fail_next(1_000, PublishErrorKind::Environment);
    let letters = Arc::new(TopicDeadLetters::new(publisher.clone(), LETTERS));
    let projection = refusing(|n| n == 1);
    let builder = projector(topics.source(), Arc::new(projection.clone())).dead_letters(letters);
    let mut running = Running::start(builder);
    running.until("it waits for the topic", paused).await;
    running.crash().await;
    assert!(topics.broker.messages(LETTERS).is_empty());

    let builder = projector(topics.source(), Arc::new(projection.clone())).dead_letters(topics.letters());
    let mut running = Running::start(builder);
    running.until_applied(2).await;
    running.stop().await.expect("run");
    assert_eq!(numbers(&projection, "key"), [0, 2, 3]);
    assert_eq!(topics.broker.messages(LETTERS).len(), 1);
}

/// A letter may be as large as its record, and a little more: what the topic refuses keeps its partition waiting.
#[tokio::test(start_paused = true)]
async fn a_letter_that_the_topic_refuses_needs_somebody_and_is_not_dropped() {
    let topics = Topics::default();
    topics.write("key", 1);
    topics.write("key", 2);
    let publisher = Arc::new(FaultyPublisher::new(topics.broker.publisher()));
    publisher.refuse_if(PublishErrorKind::Event, |_| true);
    let letters = Arc::new(TopicDeadLetters::new(publisher.clone(), LETTERS));
    let projection = refusing(|n| n == 1);
    let builder = projector(topics.source(), Arc::new(projection.clone())).dead_letters(letters);
    let mut running = Running::start(builder);
    let status = running.until("somebody is needed", ProjectorStatus::needs_action).await;
    assert!(status.problem().is_some_and(|why| why.contains(LETTERS)), "{status:?}");
    publisher.heal();
    running.until_applied(1).await;
    running.stop().await.expect("run");
    assert_eq!(numbers(&projection, "key"), [2]);
    assert_eq!(topics.broker.messages(LETTERS).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_never_written_to_the_topic_it_came_from() {
    let topics = Topics::default();
    topics.write("key", 1);
    let projection = refusing(|_| true);
    let builder = projector(topics.source(), Arc::new(projection.clone())).dead_letters(topics.letters());
    let running = Running::start(builder);
    topics.broker.wait_for(LETTERS, 1).await;
    running.stop().await.expect("run");

    let of_letters = topics.broker.source("letters", [LETTERS], SeedEnvelope);
    let builder = projector(of_letters, Arc::new(refusing(|_| true))).dead_letters(topics.letters());
    let mut running = Running::start(builder);
    let status = running.until("it needs somebody", ProjectorStatus::needs_action).await;
    assert!(status.problem().is_some_and(|why| why.contains("a dead letter already")), "{status:?}");
    running.stop().await.expect("run");
    assert_eq!(topics.broker.messages(LETTERS).len(), 1);
}

/// The projection says when: neither sooner nor by the backoff.
#[tokio::test(start_paused = true)]
async fn a_projection_can_say_when_it_is_tried_again() {
    struct Later(MemoryProjection, AtomicUsize);

    #[async_trait]
    impl Projection for Later {
        fn name(&self) -> &str {
            self.0.name()
        }

        fn capabilities(&self) -> ProjectionCapabilities {
            self.0.capabilities()
        }

        async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
            self.0.position(partition).await
        }

        async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
            if self.1.fetch_add(1, Ordering::Relaxed) == 0 {
                let error = ProjectionError::new(ProjectionErrorKind::Failed, "its parent is not there yet");
                return Err(error.at(0).retry_after(Duration::from_secs(7)));
            }
            self.0.apply(step).await
        }
    }

    let topics = Topics::default();
    topics.write("key", 1);
    let begun = Instant::now();
    let later = Arc::new(Later(MemoryProjection::new("model"), AtomicUsize::new(0)));
    let mut running = Running::start(projector(topics.source(), later));
    let retrying = |s: &ProjectorStatus| {
        s.partitions.values().any(|p| matches!(p.state, PartitionState::Retrying { failures: 1, .. }))
    };
    running.until("it waits", retrying).await;
    running.until_applied(1).await;
    let waited = begun.elapsed();
    assert!((Duration::from_secs(7)..Duration::from_secs(8)).contains(&waited), "{waited:?}");
    running.stop().await.expect("run");
}
