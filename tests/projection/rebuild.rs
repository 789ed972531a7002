//! A read model that is rebuilt from a topic.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    source::{EventSource, SourceError},
};
use outbox_kafka::KafkaSource;
use outbox_projector::{
    rebuild::{Generation, Generations as _, Rebuild, RebuildErrorKind, Stage},
    sql::{Handled, Handler, HandlerError, ProjectionName, SqlGenerations, SqlReadModel},
};
use sqlx::{AssertSqlSafe, Postgres, Transaction, postgres::PgPoolOptions};
use tokio::time::timeout;

use crate::{
    PATIENCE,
    model::{Difference, Kind},
    program::SESSION,
    read_model::{ListAndCount, TABLES},
    shop::{AGGREGATES, Feed, Shop},
};

/// None of so few is poison.
const EVENTS: i64 = 5 * AGGREGATES;

/// Each generation in a schema of its own, and views of the live one in `live`.
struct Schemas;

impl SqlReadModel<Postgres> for Schemas {
    fn create(&self, generation: Generation) -> String {
        format!("CREATE SCHEMA g{generation}; SET LOCAL search_path TO g{generation}; {TABLES};")
    }

    fn swap(&self, to: Generation) -> String {
        let view = |table: &str| format!("CREATE VIEW live.{table} AS SELECT * FROM g{to}.{table};");
        let views: String = ["entry", "latest"].into_iter().map(view).collect();
        format!("DROP SCHEMA IF EXISTS live CASCADE; CREATE SCHEMA live; {views}")
    }

    fn discard(&self, generation: Generation) -> String {
        format!("DROP SCHEMA IF EXISTS g{generation} CASCADE;")
    }

    fn handler(&self, generation: Generation, _: Stage) -> Box<dyn Handler<Postgres>> {
        Box::new(Within { generation, inner: ListAndCount::default() })
    }
}

/// A handler that knows no generations.
struct Within {
    generation: Generation,
    inner: ListAndCount,
}

#[async_trait]
impl Handler<Postgres> for Within {
    async fn handle(&self, tx: &mut Transaction<'_, Postgres>, event: &ReceivedEvent) -> Result<Handled, HandlerError> {
        let tables = format!("SET LOCAL search_path TO g{}", self.generation);
        sqlx::query(AssertSqlSafe(tables)).execute(&mut **tx).await?;
        self.inner.handle(tx, event).await
    }
}

/// The group of the one that was begun has committed offsets, which are not gone on from: not by the next generation, and
/// not when that is thrown away too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_is_begun_afresh_reads_the_topic_from_its_beginning() {
    let shop = Shop::open(Feed::Kafka).await;
    for n in 0..EVENTS {
        shop.change(n % AGGREGATES + 1).await;
    }
    let relay = shop.relay();
    let name = ProjectionName::parse("model").expect("a name");
    let generations = Arc::new(SqlGenerations::new(shop.pool().clone(), name, Schemas).expect("a short name"));
    let (brokers, group, topic) = (shop.brokers.clone(), shop.group.clone(), shop.topic.clone());
    let sources = move |generation: Generation, _: Stage| -> Result<Box<dyn EventSource>, SourceError> {
        let group = generation.name(&group);
        let source = KafkaSource::builder(&brokers, group, [&topic])
            .setting("session.timeout.ms", SESSION.as_millis().to_string());
        Ok(Box::new(source.build()?))
    };
    let sources = Arc::new(sources);
    let rebuild = || {
        let rebuild = Rebuild::new(generations.clone(), sources.clone()).swap_within(0);
        rebuild.projector(|projector| projector.batch(10)).afresh()
    };
    for applied in [50, 20] {
        let interrupted = rebuild();
        let mut status = interrupted.status();
        let stopped = interrupted.run(async move {
            status.wait_for(|status| status.applied >= applied).await.expect("it runs");
        });
        let stopped = timeout(PATIENCE, stopped).await.expect("in time").expect_err("it was stopped");
        assert_eq!(stopped.kind(), RebuildErrorKind::Stopped);
    }
    relay.finish().await;
    let live = timeout(PATIENCE, rebuild().run(std::future::pending())).await.expect("in time").expect("rebuilt");
    assert_eq!(live.get(), 4);

    let options = shop.pool().connect_options().as_ref().clone().options([("search_path", "live")]);
    let seen = PgPoolOptions::new().connect_with(options).await.expect("a connection");
    let model = shop.model().await;
    assert_eq!(model.len() as i64, EVENTS);
    assert_eq!(model.compare(Kind::Sql, &seen).await, Difference::default());
    assert!(generations.before(live).await.expect("before").is_empty());
    seen.close().await;
    shop.close().await;
}
