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
    index::Index,
    log,
    stamps::{Stage, Stamps, number_of},
    writers,
};

/// Where the read model is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Model {
    Postgres,
    OpenSearch,
}

impl Model {
    pub(crate) fn row_from_the_log(self) -> &'static str {
        match self {
            Self::Postgres => "log → PostgreSQL",
            Self::OpenSearch => "log → OpenSearch",
        }
    }

    pub(crate) fn row_through_kafka(self) -> &'static str {
        match self {
            Self::Postgres => "Kafka → PostgreSQL",
            Self::OpenSearch => "Kafka → OpenSearch",
        }
    }
}

/// The read model, and the projector's own tables.
pub(crate) async fn prepare(pool: &PgPool) -> Result<()> {
    PostgresProjection::migrate(pool, &SchemaName::default()).await?;
    sqlx::query("CREATE TABLE latest (id text PRIMARY KEY, body bytea NOT NULL)").execute(pool).await?;
    Ok(())
}

pub(crate) async fn from_the_log(bench: &Bench, load: Load, model: Model) -> Result<Stamps> {
    let consumer = ConsumerName::parse(unique("visible"))?;
    let source = LogSource::builder(Arc::new(bench.log.clone())).consumer(consumer).start_at(StartAt::End).build();
    project(bench, load, model, source).await
}

pub(crate) async fn through_kafka(bench: &Bench, load: Load, model: Model) -> Result<Stamps> {
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
    let stamps = project(bench, load, model, source).await?;
    drop(stop);
    relaying.await??;
    kafka.shut_down(std::time::Duration::from_secs(10)).await;
    topic::delete(&topic).await?;
    Ok(stamps)
}

async fn project(bench: &Bench, load: Load, model: Model, source: impl EventSource + 'static) -> Result<Stamps> {
    match model {
        Model::Postgres => {
            let name = ProjectionName::parse(unique("visible"))?;
            run(bench, load, source, PostgresProjection::builder(bench.pool.clone(), name, Latest).build()).await
        }
        Model::OpenSearch => {
            let index = Index::create().await?;
            let stamps = run(bench, load, source, index.projection("visible")).await?;
            index.delete().await?;
            Ok(stamps)
        }
    }
}

async fn run<P: Projection + 'static>(
    bench: &Bench,
    load: Load,
    source: impl EventSource + 'static,
    inner: P,
) -> Result<Stamps> {
    let stamps = Arc::new(Stamps::new(load.events()));
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
struct Timed<P> {
    inner: P,
    stamps: Arc<Stamps>,
}

#[async_trait]
impl<P: Projection> Projection for Timed<P> {
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
