//! The suites that every adapter has to pass.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::{
    event::NewEvent,
    profile::{Profile, TopicTable},
    publisher::Message,
    testing::{SUITE_TYPE, Sequencer, publisher::PublisherHarness, source::SourceHarness},
};
use outbox_kafka::{publisher::KafkaPublisher, source::KafkaSource};

use crate::{
    reading::publish,
    support::{Topic, all_delivered, open, send, stuffed},
    upheaval,
};

outbox_core::publisher_suite!(publisher, PublishingTo::fresh_topic);
outbox_core::source_suite!(source, ReadingFrom::fresh_topic);

const ROOM: u32 = 50;

struct PublishingTo {
    topic: Topic,
    publisher: KafkaPublisher,
}

impl PublishingTo {
    async fn fresh_topic() -> Self {
        let topic = Topic::new(3).await;
        let publisher = topic.publisher().in_flight(ROOM, 1 << 20).setting("message.max.bytes", "5000").build();
        Self { topic, publisher: publisher.expect("settings") }
    }
}

#[async_trait]
impl PublisherHarness for PublishingTo {
    type Publisher = KafkaPublisher;

    fn publisher(&self) -> &KafkaPublisher {
        &self.publisher
    }

    fn topic(&self) -> Arc<str> {
        self.topic.name.clone()
    }

    async fn written(&self, key: &Bytes, _last: &Bytes) -> Vec<Message> {
        // The last one was acknowledged before anybody asked for it.
        self.topic.messages(key).await
    }

    fn capacity(&self) -> Option<usize> {
        Some(ROOM as usize)
    }

    fn poison(&self, key: &Bytes) -> Option<Message> {
        Some(Message { key: key.clone(), ..stuffed(self.topic.message("", 0), 10_000) })
    }
}

struct ReadingFrom {
    topic: Topic,
    group: String,
    sequencer: Sequencer,
    profile: Profile,
}

impl ReadingFrom {
    async fn fresh_topic() -> Self {
        let topic = Topic::new(1).await;
        let router: TopicTable = [(SUITE_TYPE, topic.name.clone())].into_iter().collect();
        Self {
            group: test_services::unique("group"),
            sequencer: Sequencer::default(),
            profile: Profile::default().with_router(router),
            topic,
        }
    }
}

#[async_trait]
impl SourceHarness for ReadingFrom {
    type Source = KafkaSource;

    async fn open(&self) -> KafkaSource {
        KafkaSource::builder(&self.topic.servers, &self.group, [&*self.topic.name]).build().expect("settings")
    }

    async fn produce(&self, events: Vec<NewEvent>) {
        let message = |event| self.profile.message(&self.sequencer.record(event)).expect("message");
        publish(&self.topic, events.into_iter().map(message).collect()).await;
    }

    async fn produce_foreign(&self, payload: Bytes) {
        let message = Message { payload: Some(payload), ..self.topic.message("key", 0) };
        let publisher = self.topic.publisher().build().expect("settings");
        all_delivered(send(open(&publisher).await.as_mut(), vec![message]).await.as_mut()).await;
    }

    async fn recreate(&self) -> bool {
        upheaval::recreate(&self.topic, 1).await;
        true
    }

    async fn expire(&self) -> bool {
        upheaval::expire(&self.topic, 1).await;
        true
    }
}
