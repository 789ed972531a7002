use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::cues::{Cues, ON_CUE, When};
use crate::{
    event::Lane,
    memory::BrokenKeys,
    publisher::{
        Delivery, LaneStream, Message, Outcome, Permit, PublishError, PublishErrorKind, Publisher,
        PublisherCapabilities,
    },
};

/// A publisher that fails on cue, and otherwise does what the publisher inside does.
///
/// A message that fails on cue never reaches the publisher inside, and what follows of its key is aborted as the
/// contract says. Clones share the cues.
#[derive(Clone)]
pub struct FaultyPublisher<P> {
    inner: P,
    reserves: Cues<(), PublishErrorKind>,
    plan: Arc<Mutex<Plan>>,
    gate: watch::Sender<Gate>,
}

#[derive(Default)]
struct Plan {
    next: VecDeque<PublishErrorKind>,
    rules: Vec<(PublishErrorKind, IsBad)>,
}

type IsBad = Box<dyn Fn(&Message) -> bool + Send>;

/// Whether outcomes are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Gate {
    #[default]
    Open,
    Held,
    /// Shut down while held: what was not handed out is lost.
    GivenUp,
}

impl<P: std::fmt::Debug> std::fmt::Debug for FaultyPublisher<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyPublisher").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<P> FaultyPublisher<P> {
    /// Fails never, until told to.
    #[must_use]
    pub fn new(inner: P) -> Self {
        let gate = watch::Sender::new(Gate::Open);
        Self { inner, reserves: Cues::default(), plan: Arc::default(), gate }
    }

    /// The publisher inside, which never fails on cue.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// The next so many messages sent fail with this kind. Messages that are aborted because of them do not count.
    pub fn fail_next(&self, messages: usize, kind: PublishErrorKind) {
        self.plan().next.extend(std::iter::repeat_n(kind, messages));
    }

    /// Every message of which `bad` is true fails with this kind, for ever: a poison. With
    /// [`PublishErrorKind::Suspect`] it takes the other messages of its permit with it, as the batch of a broker does;
    /// in an isolated stream it fails with [`PublishErrorKind::Event`].
    pub fn refuse_if(&self, kind: PublishErrorKind, bad: impl Fn(&Message) -> bool + Send + 'static) {
        self.plan().rules.push((kind, Box::new(bad)));
    }

    /// Takes back every [`FaultyPublisher::refuse_if`] and what is left of [`FaultyPublisher::fail_next`].
    pub fn heal(&self) {
        *self.plan() = Plan::default();
    }

    /// The next so many reservations fail with this kind.
    pub fn fail_reserve(&self, times: usize, kind: PublishErrorKind) {
        self.reserves.add((), times, kind, When::Before);
    }

    /// Holds back all outcomes until [`FaultyPublisher::release`]. Messages are still written.
    pub fn hold(&self) {
        self.gate.send_replace(Gate::Held);
    }

    /// Hands out the outcomes that were held back.
    pub fn release(&self) {
        self.gate.send_replace(Gate::Open);
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plan {
    fn refuses_its_batch(&self, message: &Message) -> bool {
        self.rules.iter().any(|(kind, bad)| *kind == PublishErrorKind::Suspect && bad(message))
    }

    fn judge(&mut self, message: &Message) -> Option<PublishErrorKind> {
        let refused = self.rules.iter().find(|(_, bad)| bad(message)).map(|(kind, _)| *kind);
        refused.or_else(|| self.next.pop_front())
    }
}

#[async_trait]
impl<P: Publisher + Clone + 'static> Publisher for FaultyPublisher<P> {
    fn capabilities(&self) -> PublisherCapabilities {
        self.inner.capabilities()
    }

    async fn open(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        Ok(self.stream(self.inner.open(lane).await?, false))
    }

    async fn open_isolated(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        Ok(self.stream(self.inner.open_isolated(lane).await?, true))
    }

    /// Outcomes that are held back count as not reported; after `grace` they are given up.
    async fn shut_down(&self, grace: Duration) -> bool {
        let mut gate = self.gate.subscribe();
        let released = tokio::time::timeout(grace, gate.wait_for(|gate| *gate != Gate::Held)).await.is_ok();
        if !released {
            self.gate.send_replace(Gate::GivenUp);
        }
        self.inner.shut_down(grace).await && released
    }
}

impl<P: Publisher + Clone + 'static> FaultyPublisher<P> {
    fn stream(&self, inner: Box<dyn LaneStream>, isolated: bool) -> Box<dyn LaneStream> {
        Box::new(FaultyStream { publisher: self.clone(), inner, isolated, broken: BrokenKeys::default() })
    }
}

struct FaultyStream<P> {
    publisher: FaultyPublisher<P>,
    inner: Box<dyn LaneStream>,
    isolated: bool,
    broken: BrokenKeys,
}

#[async_trait]
impl<P: Publisher + Clone + 'static> LaneStream for FaultyStream<P> {
    async fn reserve(&mut self, messages: usize, bytes: usize) -> Result<Box<dyn Permit>, PublishError> {
        let call = self.inner.reserve(messages, bytes);
        let inner = self.publisher.reserves.run((), call, |kind| PublishError::new(kind, ON_CUE)).await?;
        let (publisher, broken) = (self.publisher.clone(), self.broken.clone());
        Ok(Box::new(FaultyPermit { publisher, inner, isolated: self.isolated, broken }))
    }
}

struct FaultyPermit<P> {
    publisher: FaultyPublisher<P>,
    inner: Box<dyn Permit>,
    isolated: bool,
    broken: BrokenKeys,
}

impl<P: Publisher> Permit for FaultyPermit<P> {
    fn send(self: Box<Self>, messages: Vec<Message>) -> Box<dyn Delivery> {
        let mut delivery = FaultyDelivery {
            reported: Vec::new(),
            inner: None,
            passed_on: Vec::new(),
            gate: self.publisher.gate.subscribe(),
        };
        let mut good = Vec::new();
        let mut plan = self.publisher.plan();
        let batch_refused = !self.isolated && messages.iter().any(|message| plan.refuses_its_batch(message));
        for (index, message) in messages.into_iter().enumerate() {
            let outcome = if self.broken.contains(&message) {
                Outcome::Aborted
            } else if batch_refused {
                Outcome::Failed(PublishError::new(PublishErrorKind::Suspect, ON_CUE))
            } else if let Some(kind) = plan.judge(&message) {
                let alone = self.isolated && kind == PublishErrorKind::Suspect;
                Outcome::Failed(PublishError::new(if alone { PublishErrorKind::Event } else { kind }, ON_CUE))
            } else {
                delivery.passed_on.push(Some(index));
                good.push(message);
                continue;
            };
            self.broken.add(&message);
            delivery.reported.push((index, outcome));
        }
        drop(plan);
        delivery.inner = Some(self.inner.send(good));
        Box::new(delivery)
    }
}

struct FaultyDelivery {
    /// Decided here, and not yet handed out.
    reported: Vec<(usize, Outcome)>,
    inner: Option<Box<dyn Delivery>>,
    /// The index of each message passed on, until its outcome is handed out.
    passed_on: Vec<Option<usize>>,
    gate: watch::Receiver<Gate>,
}

#[async_trait]
impl Delivery for FaultyDelivery {
    async fn next(&mut self) -> Vec<(usize, Outcome)> {
        let given_up = match self.gate.wait_for(|gate| *gate != Gate::Held).await {
            Ok(gate) => *gate == Gate::GivenUp,
            // The publisher is gone, and nobody can hold anything back any more.
            Err(_) => false,
        };
        if given_up {
            self.inner = None;
            let lost = || Outcome::Failed(PublishError::new(PublishErrorKind::Environment, "given up at shut-down"));
            self.reported.extend(std::mem::take(&mut self.passed_on).into_iter().flatten().map(|i| (i, lost())));
        }
        if !self.reported.is_empty() {
            return std::mem::take(&mut self.reported);
        }
        let Some(inner) = &mut self.inner else { return Vec::new() };
        let outcomes = inner.next().await;
        let passed_on = &mut self.passed_on;
        outcomes.into_iter().filter_map(|(index, outcome)| Some((passed_on.get_mut(index)?.take()?, outcome))).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;
    use crate::{
        memory::{MemoryBroker, MemoryPublisher},
        testing::publisher::PublisherHarness,
    };

    struct Harness {
        broker: MemoryBroker,
        publisher: FaultyPublisher<MemoryPublisher>,
    }

    impl Harness {
        #[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
        async fn fresh() -> Self {
            let broker = MemoryBroker::default();
            let publisher = FaultyPublisher::new(broker.publisher().with_capacity(20));
            publisher.refuse_if(PublishErrorKind::Suspect, |m| m.payload.as_deref() == Some(b"poison"));
            Self { broker, publisher }
        }
    }

    #[async_trait]
    impl PublisherHarness for Harness {
        type Publisher = FaultyPublisher<MemoryPublisher>;

        fn publisher(&self) -> &Self::Publisher {
            &self.publisher
        }

        fn topic(&self) -> Arc<str> {
            "suite-events".into()
        }

        async fn written(&self, key: &Bytes, last: &Bytes) -> Vec<Message> {
            self.broker.written(&self.topic(), key, last).await
        }

        fn capacity(&self) -> Option<usize> {
            Some(20)
        }

        fn poison(&self, key: &Bytes) -> Option<Message> {
            Some(message(key, b"poison"))
        }
    }

    crate::publisher_suite!(conformance, Harness::fresh);

    fn message(key: &Bytes, payload: &'static [u8]) -> Message {
        let payload = Some(Bytes::from_static(payload));
        Message { topic: "suite-events".into(), key: key.clone(), payload, headers: Vec::new() }
    }

    async fn stream(publisher: &FaultyPublisher<MemoryPublisher>) -> Box<dyn LaneStream> {
        publisher.open(Lane::new(0).expect("lane 0")).await.expect("open")
    }

    #[tokio::test]
    async fn the_next_messages_fail_and_their_followers_are_aborted() {
        let Harness { broker, publisher } = Harness::fresh().await;
        publisher.fail_next(1, PublishErrorKind::Environment);
        let (a, b) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        let permit = stream(&publisher).await.reserve(3, 3).await.expect("reserve");
        let mut delivery = permit.send(vec![message(&a, b"1"), message(&a, b"2"), message(&b, b"3")]);
        let mut outcomes = delivery.next().await;
        outcomes.extend(delivery.next().await);
        assert!(matches!(
            &outcomes[..],
            [(0, Outcome::Failed(error)), (1, Outcome::Aborted), (2, Outcome::Delivered)]
                if error.kind() == PublishErrorKind::Environment
        ));
        assert_eq!(broker.messages("suite-events"), [message(&b, b"3")]);
    }

    #[tokio::test]
    async fn a_reservation_fails_on_cue() {
        let publisher = Harness::fresh().await.publisher;
        publisher.fail_reserve(1, PublishErrorKind::Environment);
        let mut stream = stream(&publisher).await;
        let failed = stream.reserve(1, 1).await.err().expect("on cue");
        assert_eq!(failed.kind(), PublishErrorKind::Environment);
        assert!(stream.reserve(1, 1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn outcomes_are_held_back_until_released_or_given_up() {
        let publisher = Harness::fresh().await.publisher;
        let mut stream = stream(&publisher).await;
        let key = Bytes::from_static(b"key");
        publisher.hold();
        let mut delivery = stream.reserve(1, 1).await.expect("reserve").send(vec![message(&key, b"1")]);
        assert!(delivery.next().now_or_never().is_none(), "held back");
        publisher.release();
        assert!(matches!(delivery.next().await[..], [(0, Outcome::Delivered)]));

        publisher.hold();
        let mut delivery = stream.reserve(1, 1).await.expect("reserve").send(vec![message(&key, b"2")]);
        assert!(!publisher.shut_down(Duration::from_secs(1)).await, "not reported in time");
        assert!(matches!(delivery.next().await[..], [(0, Outcome::Failed(_))]));
        assert!(delivery.next().await.is_empty());
    }
}
