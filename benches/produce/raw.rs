//! The bare client: one thread that produces, one that counts.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use outbox_core::publisher::Message;
use rdkafka::{
    ClientConfig, ClientContext,
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};

use super::{Meter, Result, Run};

/// Counts acknowledgements.
#[derive(Default)]
struct Acks(AtomicUsize);

impl ClientContext for Acks {}

impl ProducerContext<NoCustomPartitioner> for Acks {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.0.fetch_add(1, Ordering::Release);
        }
    }
}

pub(crate) async fn run(servers: &str, lanes: Vec<Vec<Vec<Message>>>, events: usize) -> Result<Run> {
    let producer: ThreadedProducer<Acks> = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", std::env::var("OUTBOX_BENCH_RAW_LINGER").as_deref().unwrap_or("5"))
        .set("queue.buffering.max.messages", "1000000")
        .create_with_context(Acks::default())?;
    producer.client().fetch_metadata(None, Duration::from_secs(10))?;
    let meter = Meter::start();
    let work = tokio::task::spawn_blocking(move || -> Result<Run> {
        // Batch by batch over all lanes, as the events were written.
        let mut batches: Vec<_> = lanes.into_iter().map(Vec::into_iter).collect();
        let mut left = events;
        while left > 0 {
            for batch in batches.iter_mut().filter_map(Iterator::next) {
                left -= batch.len();
                for message in batch {
                    produce(&producer, &message)?;
                }
            }
        }
        while producer.context().0.load(Ordering::Acquire) < events {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(meter.read())
    });
    work.await?
}

fn produce(producer: &ThreadedProducer<Acks>, message: &Message) -> Result<()> {
    let mut record = BaseRecord::to(&message.topic).key(&message.key[..]);
    if let Some(payload) = &message.payload {
        record = record.payload(&payload[..]);
    }
    if !message.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(message.headers.len());
        let headers = message
            .headers
            .iter()
            .fold(headers, |all, (name, value)| all.insert(Header { key: name, value: Some(&value[..]) }));
        record = record.headers(headers);
    }
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                std::thread::sleep(Duration::from_micros(200));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}
