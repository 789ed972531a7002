use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::assert_caught;
use crate::{
    event::Lane,
    memory::{MemoryBroker, MemoryPublisher},
    publisher::{
        Delivery, LaneStream, Message, Outcome, Permit, PublishError, PublishErrorKind, Publisher,
        PublisherCapabilities,
    },
    testing::publisher::{self as suite, PublisherHarness},
};

const CAPACITY: usize = 20;
const LIMIT: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// Every third message of a batch is acknowledged and thrown away.
    Drops,
    /// A batch is written back to front.
    Reorders,
    /// The last message of a batch has no outcome.
    ForgetsAnOutcome,
    /// The first outcome is reported twice.
    ReportsTwice,
    /// After a failure the rest of the key is written.
    OvertakesFailures,
    /// What is refused for its own sake is called the broker's fault.
    BlamesTheBroker,
    /// There is always room.
    Unbounded,
    /// A permit that is not used keeps its room.
    LeaksRoom,
    /// Headers are not written.
    ForgetsHeaders,
}

struct Harness {
    broker: MemoryBroker,
    publisher: Broken,
}

#[derive(Clone)]
struct Broken {
    inner: MemoryPublisher,
    flaw: Flaw,
}

impl Harness {
    fn with(flaw: Flaw) -> Self {
        let broker = MemoryBroker::default();
        let capacity = if flaw == Flaw::Unbounded { usize::MAX } else { CAPACITY };
        let inner = broker.publisher().with_capacity(capacity).with_message_bytes(LIMIT);
        Self { publisher: Broken { inner, flaw }, broker }
    }
}

#[async_trait]
impl PublisherHarness for Harness {
    type Publisher = Broken;

    fn publisher(&self) -> &Broken {
        &self.publisher
    }

    fn topic(&self) -> Arc<str> {
        "suite-events".into()
    }

    async fn written(&self, key: &Bytes, last: &Bytes) -> Vec<Message> {
        self.broker.written(&self.topic(), key, last).await
    }

    fn capacity(&self) -> Option<usize> {
        Some(CAPACITY)
    }

    fn poison(&self, key: &Bytes) -> Option<Message> {
        let payload = Some(vec![b'x'; LIMIT].into());
        Some(Message { topic: self.topic(), key: key.clone(), payload, headers: Vec::new() })
    }
}

#[async_trait]
impl Publisher for Broken {
    fn capabilities(&self) -> PublisherCapabilities {
        self.inner.capabilities()
    }

    async fn open(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        let inner = self.inner.open(lane).await?;
        Ok(Box::new(Stream { publisher: self.clone(), inner, leaked: Vec::new() }))
    }

    async fn shut_down(&self, grace: Duration) -> bool {
        self.inner.shut_down(grace).await
    }
}

struct Stream {
    publisher: Broken,
    inner: Box<dyn LaneStream>,
    leaked: Vec<Box<dyn Permit>>,
}

#[async_trait]
impl LaneStream for Stream {
    async fn reserve(&mut self, messages: usize, bytes: usize) -> Result<Box<dyn Permit>, PublishError> {
        if self.publisher.flaw == Flaw::LeaksRoom {
            let leak = self.inner.reserve(1, 1).await?;
            self.leaked.push(leak);
        }
        let inner = self.inner.reserve(messages, bytes).await?;
        Ok(Box::new(BrokenPermit { inner, publisher: self.publisher.clone() }))
    }
}

struct BrokenPermit {
    inner: Box<dyn Permit>,
    publisher: Broken,
}

impl Permit for BrokenPermit {
    fn send(self: Box<Self>, mut messages: Vec<Message>) -> Box<dyn Delivery> {
        let Self { inner, publisher: Broken { inner: memory, flaw } } = *self;
        let lost: Vec<usize> = (0..messages.len()).filter(|index| flaw == Flaw::Drops && index % 3 == 2).collect();
        match flaw {
            Flaw::Drops => {
                let mut index = 0..;
                messages.retain(|_| !index.next().is_some_and(|i| lost.contains(&i)));
            }
            Flaw::Reorders => messages.reverse(),
            Flaw::ForgetsHeaders => messages.iter_mut().for_each(|message| message.headers.clear()),
            Flaw::OvertakesFailures => return Box::new(Scattered::send(&memory, messages)),
            _ => {}
        }
        Box::new(BrokenDelivery { inner: inner.send(messages), flaw, lost })
    }
}

struct BrokenDelivery {
    inner: Box<dyn Delivery>,
    flaw: Flaw,
    lost: Vec<usize>,
}

#[async_trait]
impl Delivery for BrokenDelivery {
    async fn next(&mut self) -> Vec<(usize, Outcome)> {
        let mut outcomes = self.inner.next().await;
        match self.flaw {
            Flaw::ForgetsAnOutcome => drop(outcomes.pop()),
            Flaw::ReportsTwice if !outcomes.is_empty() => outcomes.push((0, Outcome::Delivered)),
            Flaw::Drops if !outcomes.is_empty() => {
                let count = outcomes.len() + self.lost.len();
                outcomes = (0..count).map(|index| (index, Outcome::Delivered)).collect();
            }
            Flaw::BlamesTheBroker => {
                for (_, outcome) in &mut outcomes {
                    if let Outcome::Failed(error) = outcome {
                        *error = PublishError::new(PublishErrorKind::Environment, "the broker is to blame");
                    }
                }
            }
            _ => {}
        }
        outcomes
    }
}

/// Each message on a stream of its own, which knows nothing of the failures of the others.
struct Scattered(Vec<(usize, Outcome)>);

impl Scattered {
    fn send(publisher: &MemoryPublisher, messages: Vec<Message>) -> Self {
        use futures_util::FutureExt;
        let lane = Lane::new(0).expect("lane 0");
        let send_one = |message: Message| {
            let mut stream = publisher.open(lane).now_or_never().expect("at once").expect("open");
            let permit = stream.reserve(1, 1).now_or_never().expect("at once").expect("reserve");
            permit.send(vec![message]).next().now_or_never().expect("at once").remove(0).1
        };
        Self(messages.into_iter().map(send_one).enumerate().collect())
    }
}

#[async_trait]
impl Delivery for Scattered {
    async fn next(&mut self) -> Vec<(usize, Outcome)> {
        std::mem::take(&mut self.0)
    }
}

crate::publisher_suite!(without_a_flaw, || async { Harness::with(Flaw::None) });

#[tokio::test(start_paused = true)]
async fn a_publisher_that_drops_messages_is_caught() {
    let harness = Harness::with(Flaw::Drops);
    assert_caught(suite::order_is_kept_per_key(&harness), "the last message in the topic").await;
    let harness = Harness::with(Flaw::Drops);
    assert_caught(suite::a_delivered_message_is_written_as_it_was_sent(&harness), "left == right").await;
}

#[tokio::test]
async fn a_publisher_that_reorders_is_caught() {
    let harness = Harness::with(Flaw::Reorders);
    assert_caught(suite::order_is_kept_per_key(&harness), "order within key 0").await;
}

#[tokio::test]
async fn a_publisher_that_miscounts_outcomes_is_caught() {
    let harness = Harness::with(Flaw::ForgetsAnOutcome);
    assert_caught(suite::every_message_gets_exactly_one_outcome(&harness), "a message without an outcome").await;
    let harness = Harness::with(Flaw::ReportsTwice);
    assert_caught(suite::every_message_gets_exactly_one_outcome(&harness), "two outcomes of message 0").await;
}

#[tokio::test]
async fn a_publisher_that_writes_on_after_a_failure_is_caught() {
    let harness = Harness::with(Flaw::OvertakesFailures);
    let case = suite::a_failure_breaks_its_key_until_the_stream_is_opened_anew(&harness);
    assert_caught(case, "accepted by a broken stream").await;
}

#[tokio::test]
async fn a_publisher_that_blames_the_broker_is_caught() {
    let harness = Harness::with(Flaw::BlamesTheBroker);
    assert_caught(suite::a_message_refused_alone_is_to_blame(&harness), "Failed").await;
}

#[tokio::test(start_paused = true)]
async fn a_publisher_without_back_pressure_is_caught() {
    let harness = Harness::with(Flaw::Unbounded);
    assert_caught(suite::reserve_waits_for_room(&harness), "more was reserved than there is room for").await;
    let harness = Harness::with(Flaw::LeaksRoom);
    assert_caught(suite::an_unused_permit_gives_its_room_back(&harness), "all the room").await;
}

#[tokio::test]
async fn a_publisher_that_forgets_headers_is_caught() {
    let harness = Harness::with(Flaw::ForgetsHeaders);
    assert_caught(suite::a_delivered_message_is_written_as_it_was_sent(&harness), "left == right").await;
}
