//! The relay, as its users would run it.

use std::{sync::Arc, time::Duration};

use futures_util::future::{try_join, try_join_all};
use outbox_core::{
    log::{ConsumerName, EventLog as _, LogAdmin as _, StartAt},
    memory::NullPublisher,
    profile::{LeanEnvelope, Profile, TopicTable},
    publisher::Publisher,
    relay::{Relay, RelayStatus},
};
use outbox_kafka::KafkaPublisher;
use outbox_sqlx::{PostgresLog, postgres::SchemaName};
use sqlx::PgPool;
use test_services::{kafka_bootstrap, unique};
use tokio::sync::watch;

use super::{
    RelaySettings, Result, Task,
    gauge::{Gauge, Outcome},
    log,
};

/// For relays that share: short, since lanes change hands with its renewals.
const LEASE: Duration = Duration::from_millis(1_500);

pub(super) async fn run(pool: &PgPool, task: &Task, settings: &RelaySettings, gauge: Gauge) -> Result<Outcome> {
    let consumer = ConsumerName::parse(settings.consumer.clone().unwrap_or_else(|| unique("bench")))?;
    let log = PostgresLog::builder(pool.clone()).schema(SchemaName::parse(&task.schema)?).open().await?;
    let mut relays = Vec::new();
    for _ in 0..settings.relays.unwrap_or(1) {
        relays.push(One::new(&log, task, settings, &consumer).await?);
    }
    let status: Vec<_> = relays.iter().map(|one| one.relay.status()).collect();
    let done = {
        let status = status.clone();
        move || published(&status)
    };
    let drained = || until(&status, |status| published(status) >= task.events);
    let runs = || try_join_all(relays.iter().map(|one| one.run(drained())));

    if settings.relays.is_none() {
        let running = gauge.start(done).await?;
        runs().await?;
        return running.end(task.events).await;
    }
    // Nothing flows until each has its lanes.
    log.register(&consumer, StartAt::Beginning).await?;
    log.set_paused(&consumer, true).await?;
    let lanes = usize::from(log.identity().await?.lanes.get());
    let (fair, several) = (lanes.div_ceil(relays.len()), relays.len().min(lanes));
    let shared = until(&status, |status| {
        let has_its_share =
            |status: &&watch::Receiver<RelayStatus>| (1..=fair).contains(&(status.borrow().lanes.len() as usize));
        status.iter().filter(has_its_share).count() == several
    });
    let start = async {
        shared.await;
        let running = gauge.start(done).await?;
        log.set_paused(&consumer, false).await?;
        Ok(running)
    };
    let (running, _) = try_join(start, runs()).await?;
    running.end(task.events).await
}

struct One {
    relay: Relay,
    publisher: Arc<dyn Publisher>,
}

impl One {
    async fn new(log: &PostgresLog, task: &Task, settings: &RelaySettings, consumer: &ConsumerName) -> Result<Self> {
        let publisher: Arc<dyn Publisher> = if settings.null {
            Arc::new(NullPublisher)
        } else {
            let mut builder = KafkaPublisher::builder(kafka_bootstrap().await);
            if let Some(linger) = &settings.linger {
                builder = builder.setting("linger.ms", linger);
            }
            Arc::new(builder.build()?)
        };
        let mut profile =
            Profile::default().with_router(TopicTable::parse([(log::AGGREGATE_TYPE, topic(task, settings))])?);
        if settings.lean {
            profile = profile.with_encoder(LeanEnvelope);
        }
        let mut builder = Relay::builder(Arc::new(log.clone()), publisher.clone(), profile).consumer(consumer.clone());
        if let Some(batch) = settings.batch {
            builder = builder.batch(batch);
        }
        if let Some(window) = settings.window {
            builder = builder.window(window);
        }
        if let Some(events) = settings.lane_in_flight {
            builder = builder.lane_in_flight(events);
        }
        if settings.relays.is_some() {
            builder = builder.lease(LEASE);
        }
        Ok(Self { relay: builder.build(), publisher })
    }

    async fn run(&self, drained: impl Future<Output = ()> + Send) -> Result<()> {
        self.relay.run(drained).await?;
        self.publisher.shut_down(Duration::from_secs(10)).await;
        Ok(())
    }
}

/// The null publisher looks at no topic, but the router needs one.
fn topic<'t>(task: &'t Task, settings: &RelaySettings) -> &'t str {
    if settings.null { "nowhere" } else { &task.topic }
}

/// Until the states of all relays together are such. Looked at now and then: they change with each report, and waking up
/// for each would cost a share of what is measured.
async fn until(status: &[watch::Receiver<RelayStatus>], such: impl Fn(&[watch::Receiver<RelayStatus>]) -> bool) {
    while !such(status) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn published(status: &[watch::Receiver<RelayStatus>]) -> u64 {
    status.iter().map(|status| status.borrow().published).sum()
}
