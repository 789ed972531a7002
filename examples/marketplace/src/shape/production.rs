//! PostgreSQL, a relay to Kafka, and a consumer group that feeds OpenSearch. Any number of processes may run so.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use outbox_core::{
    event::Event,
    log::{ConsumerName, RetentionPolicy},
    profile::{Profile, SeedEnvelope},
    publisher::Publisher,
    relay::Relay,
    retention::Pruner,
    source::EventSource,
};
use outbox_kafka::{KafkaPublisher, KafkaSource, TopicSpec};
use outbox_projector::rebuild::{self, Generation, Generations, LiveProjector, Sources};

use super::{OpenIndex, Parts};
use crate::{
    config::{Config, Secret},
    db::{Db, PostgresDb},
    pipeline::{IndexStage, Journeys, ObservedGenerations, ObservedPublisher, RelayStage, Stage, Stages, Workers},
    search::{SearchDeadLetters, opensearch::OpenSearchIndex},
    secrets,
};

pub(super) async fn start(config: &Config, journeys: &Journeys) -> anyhow::Result<Parts> {
    let token = secrets::configured(needed(config.admin_token.as_ref(), "admin_token")?)?;
    let brokers = needed(config.kafka_brokers.as_ref(), "kafka_brokers")?;
    needed(config.opensearch_url.as_ref(), "opensearch_url")?;
    let Secret(database) = needed(config.database_url.as_ref(), "database_url")?;
    let db = PostgresDb::open(database, profile(&config.topic_prefix)).await?;
    let db = Arc::new(Db::Postgres(db));
    let log = db.log();
    let publisher = KafkaPublisher::builder(brokers).build().context("the Kafka publisher cannot be made")?;
    let index = index_of(config, &db).await?;
    let profile = profile(&config.topic_prefix);
    let consumer = ConsumerName::parse("kafka")?;
    let topic = format!("{}tutor-events", config.topic_prefix);
    let mut workers = Workers::default();

    let observed = ObservedPublisher { inner: Arc::new(publisher.clone()), journeys: journeys.clone() };
    let relay = Relay::builder(log.clone(), Arc::new(observed), profile)
        .consumer(consumer.clone())
        .stop_within(config.drain())
        .build();
    let relay_stage = RelayStage(relay.status());
    let topics = [TopicSpec::new(&topic, -1, -1)];
    workers.spawn("relay to Kafka", move |mut stop| {
        let (relay, publisher, topics) = (relay.clone(), publisher.clone(), topics.clone());
        async move {
            tokio::select! {
                made = publisher.ensure_topics(&topics) => made?,
                () = stop.stopped() => return anyhow::Ok(()),
            }
            relay.run(stop.stopped()).await?;
            publisher.shut_down(LAST_WORD).await;
            Ok(())
        }
    });

    workers.spawn("retention of the log", {
        let pruner = Pruner::new(log.clone(), RetentionPolicy::default().keep_for(KEPT));
        move |mut stop| {
            let pruner = pruner.clone();
            async move {
                pruner.run(stop.stopped()).await;
                anyhow::Ok(())
            }
        }
    });

    let index_stage = IndexStage::default();
    let generations: Arc<dyn Generations> =
        Arc::new(ObservedGenerations { inner: Arc::new(index.clone()), journeys: journeys.clone() });
    let (brokers, group) = (brokers.clone(), config.consumer_group.clone());
    let sources: Arc<dyn Sources> = Arc::new(move |generation: Generation, _: rebuild::Stage| {
        let source = KafkaSource::builder(brokers.as_str(), generation.name(&group), [topic.as_str()]);
        let source = source.setting("session.timeout.ms", SESSION_MS).build()?;
        Ok(Box::new(source) as Box<dyn EventSource>)
    });
    let letters = Arc::new(SearchDeadLetters::of(db.clone()));
    letters.warn().await.context("the dead letters cannot be read")?;
    let drain = config.drain();
    workers.spawn("projection into the search index", {
        let stage = index_stage.clone();
        move |mut stop| {
            let letters = letters.clone();
            let live = LiveProjector::new(generations.clone(), sources.clone());
            let live = live.projector(move |p| p.dead_letters(letters.clone()).grace(drain));
            stage.follow(live.status());
            async move { live.run(stop.stopped()).await }
        }
    });
    workers.spawn("preparation of the search index", {
        let index = index.clone();
        move |mut stop| {
            let index = index.clone();
            async move {
                tokio::select! {
                    prepared = index.prepare() => prepared,
                    () = stop.stopped() => Ok(()),
                }
            }
        }
    });
    let stages = Stages { log, consumer, behind: vec![Stage::Relay(relay_stage), Stage::Index(index_stage)] };
    Ok(Parts { name: "production", db, index: Arc::new(index), stages, workers, token, data: None })
}

pub(super) async fn open_database(config: &Config) -> anyhow::Result<Arc<Db>> {
    let Secret(database) = needed(config.database_url.as_ref(), "database_url")?;
    let db = PostgresDb::open_as_it_is(database, profile(&config.topic_prefix)).await?;
    Ok(Arc::new(Db::Postgres(db).fits().await?))
}

pub(super) async fn open_index(config: &Config) -> anyhow::Result<OpenIndex> {
    let db = open_database(config).await?;
    let index = index_of(config, &db).await?;
    let live = index.live().await?;
    let decoder = Arc::new(SeedEnvelope);
    #[cfg(feature = "embedded")]
    let opened = OpenIndex { db, projection: Box::new(live), decoder, _directory: None };
    #[cfg(not(feature = "embedded"))]
    let opened = OpenIndex { db, projection: Box::new(live), decoder };
    Ok(opened)
}

async fn index_of(config: &Config, db: &Db) -> anyhow::Result<OpenSearchIndex> {
    let Secret(opensearch) = needed(config.opensearch_url.as_ref(), "opensearch_url")?;
    let identity = db.log().identity().await.context("the log cannot be read")?;
    OpenSearchIndex::new(opensearch, &config.search_index, identity.id)
}

/// How long a killed process keeps its partitions from the others; the relay's lease is as long.
const SESSION_MS: &str = "12000";

/// How long the log keeps events that Kafka has: long enough to look into what happened.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// The relay has reported everything when it ends; nothing is left that would need long.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What writer and relay agree on: the default, with a prefix before the names of topics.
fn profile(prefix: &str) -> Profile {
    let prefix = prefix.to_owned();
    Profile::default()
        .with_router(move |event: &Event| format!("{prefix}{}-events", event.aggregate_type.as_str().to_lowercase()))
}

fn needed<'a, T>(setting: Option<&'a T>, name: &str) -> anyhow::Result<&'a T> {
    setting.with_context(|| {
        let upper = name.to_uppercase();
        format!("the production shape needs {name}: set MARKETPLACE_{upper}, or {name} in marketplace.toml")
    })
}
