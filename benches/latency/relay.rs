//! The relay with its default settings. Its encoder and its publisher are wrapped to take the time.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use outbox_core::{
    event::{Event, InvalidEvent, Lane, RecordedEvent},
    log::{ConsumerName, StartAt},
    profile::{CodecError, Encoded, Encoder, Profile, SeedEnvelope, TopicTable},
    publisher::{Delivery, LaneStream, Message, Outcome, Permit, PublishError, Publisher, PublisherCapabilities},
    relay::Relay,
};
use outbox_kafka::KafkaPublisher;
use test_services::{kafka_bootstrap, unique};

use crate::{
    Bench, Load, Result, appended,
    contest::topic,
    log,
    stamps::{Stage, Stamps, number_in, number_of},
    writers,
};

pub(crate) async fn run(bench: &Bench, load: Load) -> Result<Stamps> {
    let topic = topic::create(true).await?;
    let stamps = Arc::new(Stamps::new(load.events()));
    let mut kafka = KafkaPublisher::builder(kafka_bootstrap().await);
    if let Some(linger) = &bench.linger {
        kafka = kafka.setting("linger.ms", linger);
    }
    let kafka = kafka.build()?;
    let publisher = Timed { inner: Box::new(kafka.clone()) as Box<dyn Publisher>, stamps: stamps.clone() };
    let profile = Profile::default()
        .with_encoder(Timed { inner: SeedEnvelope, stamps: stamps.clone() })
        .with_router(TopicTable::parse([(log::AGGREGATE_TYPE, &topic)])?);
    let relay = Relay::builder(Arc::new(bench.log.clone()), Arc::new(publisher), profile)
        .consumer(ConsumerName::parse(unique("latency"))?)
        .start_at(StartAt::End)
        .build();

    let mut status = relay.status();
    let all = {
        let mut status = status.clone();
        async move { _ = status.wait_for(|s| s.published >= load.events()).await }
    };
    let running = tokio::spawn(async move { relay.run(all).await });
    status.wait_for(|status| !status.lanes.is_empty()).await?;
    writers::write(bench, load, &stamps, |_| {}).await?;
    running.await??;
    kafka.shut_down(Duration::from_secs(10)).await;
    appended::stamp(&topic, &stamps).await?;
    topic::delete(&topic).await?;
    Arc::into_inner(stamps).ok_or_else(|| "the stamps are still in use".into())
}

struct Timed<T> {
    inner: T,
    stamps: Arc<Stamps>,
}

impl Encoder for Timed<SeedEnvelope> {
    fn check(&self, event: &Event) -> std::result::Result<usize, InvalidEvent> {
        self.inner.check(event)
    }

    fn encode(&self, event: &RecordedEvent) -> std::result::Result<Encoded, CodecError> {
        self.stamps.stamp(number_of(event.event.id), Stage::Read);
        self.inner.encode(event)
    }
}

#[async_trait]
impl Publisher for Timed<Box<dyn Publisher>> {
    fn capabilities(&self) -> PublisherCapabilities {
        self.inner.capabilities()
    }

    async fn open(&self, lane: Lane) -> std::result::Result<Box<dyn LaneStream>, PublishError> {
        Ok(Box::new(Timed { inner: self.inner.open(lane).await?, stamps: self.stamps.clone() }))
    }

    async fn open_isolated(&self, lane: Lane) -> std::result::Result<Box<dyn LaneStream>, PublishError> {
        Ok(Box::new(Timed { inner: self.inner.open_isolated(lane).await?, stamps: self.stamps.clone() }))
    }

    async fn shut_down(&self, grace: Duration) -> bool {
        self.inner.shut_down(grace).await
    }
}

#[async_trait]
impl LaneStream for Timed<Box<dyn LaneStream>> {
    async fn reserve(&mut self, messages: usize, bytes: usize) -> std::result::Result<Box<dyn Permit>, PublishError> {
        Ok(Box::new(Timed { inner: self.inner.reserve(messages, bytes).await?, stamps: self.stamps.clone() }))
    }
}

impl Permit for Timed<Box<dyn Permit>> {
    fn send(self: Box<Self>, messages: Vec<Message>) -> Box<dyn Delivery> {
        let Self { inner, stamps } = *self;
        let number = |message: &Message| message.payload.as_deref().and_then(number_in).unwrap_or(u64::MAX);
        let numbers: Vec<u64> = messages.iter().map(number).collect();
        for &event in &numbers {
            stamps.stamp(event, Stage::HandedOver);
        }
        Box::new(Timed { inner: Sent { delivery: inner.send(messages), numbers }, stamps })
    }
}

struct Sent {
    delivery: Box<dyn Delivery>,
    numbers: Vec<u64>,
}

#[async_trait]
impl Delivery for Timed<Sent> {
    async fn next(&mut self) -> Vec<(usize, Outcome)> {
        let outcomes = self.inner.delivery.next().await;
        for (index, outcome) in &outcomes {
            self.stamp(*index..index + 1, outcome);
        }
        outcomes
    }

    async fn next_runs(&mut self) -> Vec<(Range<usize>, Outcome)> {
        let outcomes = self.inner.delivery.next_runs().await;
        for (indices, outcome) in &outcomes {
            self.stamp(indices.clone(), outcome);
        }
        outcomes
    }
}

impl Timed<Sent> {
    fn stamp(&self, indices: Range<usize>, outcome: &Outcome) {
        if matches!(outcome, Outcome::Delivered) {
            for event in &self.inner.numbers[indices] {
                self.stamps.stamp(*event, Stage::Acknowledged);
            }
        }
    }
}
