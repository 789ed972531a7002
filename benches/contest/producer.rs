//! The bare producer: threaded, idempotent, acknowledgements counted, nothing else looked at.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    error::KafkaError,
    producer::{BaseRecord, DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use test_services::kafka_bootstrap;

use super::{
    Result, Task,
    gauge::{Gauge, Outcome},
    log,
};

/// From memory: what client and broker can take.
pub(super) async fn run(task: &Task, gauge: Gauge) -> Result<Outcome> {
    let body = serde_json::to_vec(&log::payload(0))?;
    let keys: Vec<String> = (0..log::AGGREGATES).map(|aggregate| aggregate.to_string()).collect();
    let acked = Arc::new(AtomicU64::new(0));
    let servers = kafka_bootstrap().await;
    let done = acked.clone();
    let running = gauge.start(move || done.load(Ordering::Acquire)).await?;
    let producer = Producer::create(&servers, acked)?;
    for key in (0..task.events).map(|n| &keys[(n / log::BURST % log::AGGREGATES) as usize]) {
        producer.send(BaseRecord::to(&task.topic).key(key.as_str()).payload(body.as_slice()))?;
    }
    producer.acked(task.events).await?;
    drop(producer);
    running.end(task.events).await
}

pub(super) struct Producer(ThreadedProducer<Acks>);

impl Producer {
    pub(super) fn create(servers: &str, acked: Arc<AtomicU64>) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "1000000")
            .create_with_context(Acks { acked, failed: AtomicU64::new(0) })?;
        Ok(Self(producer))
    }

    pub(super) fn send(&self, mut record: BaseRecord<'_, str, [u8]>) -> Result<()> {
        loop {
            match self.0.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// Waits until so many were acknowledged.
    pub(super) async fn acked(&self, events: u64) -> Result<()> {
        let Acks { acked, failed } = self.0.context().as_ref();
        // Looked at rather than waited for: a wake-up for each acknowledgement would cost more than all else here.
        while acked.load(Ordering::Acquire) < events {
            if failed.load(Ordering::Acquire) > 0 {
                return Err("a message was not delivered".into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

struct Acks {
    acked: Arc<AtomicU64>,
    failed: AtomicU64,
}

impl ClientContext for Acks {}

impl ProducerContext<NoCustomPartitioner> for Acks {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() { &self.acked } else { &self.failed };
        counter.fetch_add(1, Ordering::Release);
    }
}
