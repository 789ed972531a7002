//! What [`KafkaPublisher`] costs beside the bare client: the same messages from memory to one broker.
//!
//! ```sh
//! cargo bench --bench produce                    # 400,000 messages, 5 rounds
//! OUTBOX_BENCH_EVENTS=2000000 OUTBOX_BENCH_ROUNDS=9 cargo bench --bench produce
//! OUTBOX_BENCH_HEADERS=3 OUTBOX_BENCH_LINGER=0 OUTBOX_BENCH_ROOM=5000 cargo bench --bench produce
//! ```
//!
//! Messages are made before the clock starts. Rounds are interleaved: each runs every contestant once, so that a change
//! in the machine's load touches all. Processor time is that of this process only, the broker's is not in it.

#[path = "../figures/cpu.rs"]
mod cpu;
mod publisher;
mod raw;
#[path = "../figures/table.rs"]
mod table;

use std::sync::Arc;

use bytes::Bytes;
use outbox_core::publisher::Message;
use outbox_kafka::{KafkaPublisher, TopicSpec};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use table::{Stopwatch, Table, load, number};
use test_services::{kafka_bootstrap, unique};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const LANES: usize = 64;
const BATCH: usize = 80;
const AGGREGATES: usize = 10_000;
const BURST: usize = 4;
const PARTITIONS: i32 = 12;
/// Key and body.
const MESSAGE_BYTES: usize = 300;
const HEADERS: [(&str, usize); 7] = [
    ("outbox-id", 36),
    ("outbox-log", 36),
    ("outbox-type", 12),
    ("outbox-aggregate-type", 5),
    ("outbox-sequence", 16),
    ("content-type", 16),
    ("traceparent", 55),
];

fn main() -> Result<()> {
    let events = number("OUTBOX_BENCH_EVENTS", 400_000)?;
    let rounds = number("OUTBOX_BENCH_ROUNDS", 5)?.max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        eprintln!("{events} messages, {rounds} rounds; load {}", load());
        let (mut speed, mut cost) = (Table::default(), Table::default());
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}");
            for headers in [false, true] {
                let suffix = if headers { ", 7 headers" } else { ", no headers" };
                for contestant in [Contestant::Raw, Contestant::Publisher] {
                    let run = contestant.run(events, headers).await?;
                    let name = format!("{}{suffix}", contestant.name());
                    speed.record(&name, events, run.took);
                    cost.record_figure(&name, run.cpu_seconds * 1e6 / events as f64);
                }
            }
        }
        for suffix in [", no headers", ", 7 headers"] {
            let yardstick = format!("{}{suffix}", Contestant::Raw.name());
            speed.print(&format!("Memory → Kafka{suffix}"), "messages/s", &yardstick);
            cost.print(&format!("Processor time{suffix}"), "µs/message", &yardstick);
        }
        eprintln!("load {}", load());
        Ok(())
    })
}

#[derive(Clone, Copy)]
enum Contestant {
    Raw,
    Publisher,
}

struct Run {
    took: std::time::Duration,
    cpu_seconds: f64,
}

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw producer, acks counted",
            Self::Publisher => "KafkaPublisher, 64 lanes",
        }
    }

    async fn run(self, events: usize, headers: bool) -> Result<Run> {
        let servers = kafka_bootstrap().await;
        let topic = unique("produce");
        let setup = KafkaPublisher::builder(&servers).build()?;
        setup.ensure_topics(&[TopicSpec::new(&topic, PARTITIONS, 1)]).await?;
        let lanes = lanes(&topic.as_str().into(), events, headers)?;
        let run = match self {
            Self::Raw => raw::run(&servers, lanes, events).await,
            Self::Publisher => publisher::run(&servers, lanes).await,
        };
        // Each round writes hundreds of megabytes.
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &servers).create()?;
        admin.delete_topics(&[&topic], &AdminOptions::new()).await?;
        run
    }
}

/// The batches of every lane, as a relay would hand them over.
fn lanes(topic: &Arc<str>, events: usize, with_headers: bool) -> Result<Vec<Vec<Vec<Message>>>> {
    let count = if with_headers { number("OUTBOX_BENCH_HEADERS", HEADERS.len())? } else { 0 };
    let headers = HEADERS.get(..count).ok_or("OUTBOX_BENCH_HEADERS: there are seven")?;
    let names: Vec<_> = headers.iter().map(|(name, bytes)| (Arc::<str>::from(*name), *bytes)).collect();
    let mut lanes: Vec<Vec<Vec<Message>>> = vec![Vec::new(); LANES];
    for n in 0..events {
        let aggregate = n / BURST % AGGREGATES;
        let key: Bytes = aggregate.to_string().into();
        // The values of the headers share one piece of memory, as the encoders make them.
        let mut text = Bytes::from(vec![b'h'; names.iter().map(|(_, bytes)| bytes).sum()]);
        let headers = names.iter().map(|(name, bytes)| (name.clone(), text.split_to(*bytes))).collect();
        let payload = Some(Bytes::from(vec![b'x'; MESSAGE_BYTES - key.len()]));
        let lane = &mut lanes[aggregate % LANES];
        if lane.last().is_none_or(|batch| batch.len() == BATCH) {
            lane.push(Vec::with_capacity(BATCH));
        }
        if let Some(batch) = lane.last_mut() {
            batch.push(Message { topic: topic.clone(), key, payload, headers });
        }
    }
    Ok(lanes)
}

/// Measures from now on.
struct Meter {
    watch: Stopwatch,
    cpu: f64,
}

impl Meter {
    fn start() -> Self {
        Self { watch: Stopwatch::start(), cpu: cpu::cpu_seconds("self").unwrap_or(f64::NAN) }
    }

    /// To be read while the threads that did the work still live.
    fn read(&self) -> Run {
        Run { took: self.watch.took(), cpu_seconds: cpu::cpu_seconds("self").unwrap_or(f64::NAN) - self.cpu }
    }
}
