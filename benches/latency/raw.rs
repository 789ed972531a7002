//! The bare producer: the same messages at the same rate, handed over at the moment they are due.

use std::{sync::Arc, time::Duration};

use outbox_core::{
    event::{Lane, LogId, Origin, RecordedEvent, Sequence},
    profile::{Profile, TopicTable},
    publisher::Message,
};
use rdkafka::{
    ClientConfig, ClientContext,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer},
};
use test_services::kafka_bootstrap;
use uuid::Uuid;

use crate::{
    Bench, Load, Result, appended, arrivals,
    contest::topic,
    log,
    stamps::{Stage, Stamps, id_of},
    writers,
};

/// The publisher's default.
const LINGER: &str = "0";

/// How long the last acknowledgements are waited for, and how often is looked.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);

/// `beside` the same inserts, which nobody relays, or alone.
pub(crate) async fn run(bench: &Bench, load: Load, beside: bool) -> Result<Stamps> {
    let topic = topic::create(true).await?;
    let messages = messages(&topic, load)?;
    let stamps = Arc::new(Stamps::new(load.events()));
    let producer: ThreadedProducer<Acks> = ClientConfig::new()
        .set("bootstrap.servers", kafka_bootstrap().await)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", bench.linger.as_deref().unwrap_or(LINGER))
        .create_with_context(Acks(stamps.clone()))?;
    let produce = {
        let (producer, stamps) = (producer.clone(), stamps.clone());
        move |first: u64| {
            for event in first..first + load.burst {
                stamps.stamp(event, Stage::HandedOver);
                send(&producer, &messages[event as usize], event);
            }
        }
    };
    if beside {
        writers::write(bench, load, &stamps, produce).await?;
    } else {
        let stamps = stamps.clone();
        tokio::task::spawn_blocking(move || arrivals::play(load, &stamps, produce)).await?;
    }
    let flushed = tokio::task::spawn_blocking(move || producer.flush(PATIENCE)).await?;
    flushed?;
    let acknowledged = async {
        while stamps.count(Stage::Acknowledged) < load.events() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, acknowledged).await?;
    appended::stamp(&topic, &stamps).await?;
    topic::delete(&topic).await?;
    Arc::into_inner(stamps).ok_or_else(|| "the stamps are still in use".into())
}

/// What the relay would send.
fn messages(topic: &str, load: Load) -> Result<Vec<Message>> {
    let profile = Profile::default().with_router(TopicTable::parse([(log::AGGREGATE_TYPE, topic)])?);
    let origin = |n| Some(Origin { log: LogId(Uuid::nil()), sequence: Sequence::new(1, n)? });
    let message = |n| {
        let event = log::event(n * log::BURST)?.with_id(id_of(n)).into_event();
        let (origin, lane) = (origin(n).ok_or("a position")?, Lane::new(0).ok_or("a lane")?);
        Ok(profile.message(&RecordedEvent { origin, lane, event })?)
    };
    (0..load.events()).map(message).collect()
}

fn send(producer: &ThreadedProducer<Acks>, message: &Message, event: u64) {
    let headers = message
        .headers
        .iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(&value[..]) }));
    let record = BaseRecord::with_opaque_to(&message.topic, Box::new(event)).key(&message.key[..]).headers(headers);
    // One that is not taken is never acknowledged, and the run fails.
    let _taken = producer.send(record.payload(message.payload.as_deref().unwrap_or_default()));
}

#[derive(Clone)]
struct Acks(Arc<Stamps>);

impl ClientContext for Acks {}

impl ProducerContext<NoCustomPartitioner> for Acks {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, event: Box<u64>) {
        if result.is_ok() {
            self.0.stamp(*event, Stage::Acknowledged);
        }
    }
}
