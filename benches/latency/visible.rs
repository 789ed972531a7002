//! From insert to read model: straight from the log, and through Kafka.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    log::{ConsumerName, StartAt},
    log_source::LogSource,
    profile::{Profile, TopicTable},
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, Step},
    publisher::Publisher as _,
    relay::Relay,
    source::{EventSource, Partition, SourcePosition},
};
use outbox_kafka::{KafkaPublisher, KafkaSource};
use outbox_projector::{
    Projector, ProjectorStatus,
    sql::{Handled, Handler, HandlerError, PostgresProjection, ProjectionName, SchemaName},
};
use sqlx::{PgPool, Postgres, Transaction};
use test_services::{kafka_bootstrap, unique};
use tokio::sync::oneshot;

use crate::{
    Bench, Load, Result,
    contest::topic,
    log,
    stamps::{Stage, Stamps, number_of},
    writers,
};

pub(crate) const FROM_THE_LOG: &str = "straight from the log";
pub(crate) const THROUGH_KAFKA: &str = "through Kafka";

/// The read model, and the projector's own tables.
pub(crate) async fn prepare(pool: &PgPool) -> Result<()> {
    PostgresProjection::migrate(pool, &SchemaName::default()).await?;
    sqlx::query("CREATE TABLE latest (id text PRIMARY KEY, body bytea NOT NULL)").execute(pool).await?;
    Ok(())
}

pub(crate) async fn from_the_log(bench: &Bench, load: Load) -> Result<Stamps> {
    let consumer = ConsumerName::parse(unique("visible"))?;
    let source = LogSource::builder(Arc::new(bench.log.clone())).consumer(consumer).start_at(StartAt::End).build();
    project(bench, load, source).await
}

pub(crate) async fn through_kafka(bench: &Bench, load: Load) -> Result<Stamps> {
    let topic = topic::create(true).await?;
    let kafka = KafkaPublisher::builder(kafka_bootstrap().await).build()?;
    let profile = Profile::default().with_router(TopicTable::parse([(log::AGGREGATE_TYPE, &topic)])?);
    let relay = Relay::builder(Arc::new(bench.log.clone()), Arc::new(kafka.clone()), profile)
        .consumer(ConsumerName::parse(unique("visible"))?)
        .start_at(StartAt::End)
        .build();
    let mut status = relay.status();
    let (stop, stopped) = oneshot::channel::<()>();
    let relaying = tokio::spawn(async move {
        let shutdown = async {
            let _stop = stopped.await;
        };
        relay.run(shutdown).await
    });
    status.wait_for(|status| !status.lanes.is_empty()).await?;
    let source = KafkaSource::builder(kafka_bootstrap().await, unique("visible"), [topic.as_str()]).build()?;
    let stamps = project(bench, load, source).await?;
    drop(stop);
    relaying.await??;
    kafka.shut_down(std::time::Duration::from_secs(10)).await;
    topic::delete(&topic).await?;
    Ok(stamps)
}

async fn project(bench: &Bench, load: Load, source: impl EventSource + 'static) -> Result<Stamps> {
    let stamps = Arc::new(Stamps::new(load.events()));
    let name = ProjectionName::parse(unique("visible"))?;
    let inner = PostgresProjection::builder(bench.pool.clone(), name, Latest).build();
    let projector = Projector::builder(source, Arc::new(Timed { inner, stamps: stamps.clone() })).build();
    let mut status = projector.status();
    let all = {
        let mut status = status.clone();
        let done = move |s: &ProjectorStatus| s.totals().applied as u64 >= load.events();
        async move { _ = status.wait_for(done).await }
    };
    let running = tokio::spawn(projector.run(all));
    let reads = |s: &ProjectorStatus| {
        !s.partitions.is_empty() && s.partitions.values().all(|p| p.state == outbox_projector::PartitionState::Running)
    };
    status.wait_for(reads).await?;
    writers::write(bench, load, &stamps, |_| {}).await?;
    running.await??;
    Arc::into_inner(stamps).ok_or_else(|| "the stamps are still in use".into())
}

/// Notes when a step is committed.
struct Timed {
    inner: PostgresProjection,
    stamps: Arc<Stamps>,
}

#[async_trait]
impl Projection for Timed {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        self.inner.capabilities()
    }

    async fn position(&self, at: &Partition) -> std::result::Result<Option<SourcePosition>, ProjectionError> {
        self.inner.position(at).await
    }

    async fn apply(&self, step: Step<'_>) -> std::result::Result<Applied, ProjectionError> {
        for received in step.events {
            self.stamps.stamp(number_of(received.event.id), Stage::Read);
        }
        let applied = self.inner.apply(step).await?;
        for received in step.events {
            self.stamps.stamp(number_of(received.event.id), Stage::Visible);
        }
        Ok(applied)
    }
}

struct Latest;

#[async_trait]
impl Handler<Postgres> for Latest {
    async fn handle(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        received: &ReceivedEvent,
    ) -> std::result::Result<Handled, HandlerError> {
        let upsert = "INSERT INTO latest VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET body = excluded.body";
        sqlx::query(upsert)
            .bind(received.event.aggregate_id.as_str())
            .bind(received.event.payload.as_deref())
            .execute(&mut **tx)
            .await?;
        Ok(Handled::Done)
    }
}
