//! Side effects that happen once, each case on every database.

mod claims;
#[cfg(feature = "postgres")]
mod claims_on_postgres;
mod conformance;
mod effects;
mod keys;
mod letters;
mod random;
mod retention;

use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, Projection, ProjectionError, Step},
    source::{Partition, SourcePosition},
};
use outbox_projector::{
    inbox::{Inbox, InboxDatabase, InboxProjection},
    sql::{Handler, ProjectionName},
};
use sqlx::{Pool, Transaction};
use uuid::Uuid;

use crate::sql::{
    database::{Database, TestDatabase, fresh},
    handler::ReadModel,
    on_every_database,
};

/// What these tests need of a database beyond its pool and its read model.
#[async_trait]
trait Bed: TestDatabase + InboxDatabase {
    /// A transaction that may write.
    async fn open(pool: &Pool<Self>) -> Transaction<'static, Self>;
    /// Makes a claim look as if it were this old.
    async fn age(pool: &Pool<Self>, event_id: Uuid, hours: u32);
    /// So many claims of the consumer `effects`, a year old.
    async fn add_old(pool: &Pool<Self>, count: i64);
}

#[cfg(feature = "postgres")]
#[async_trait]
impl Bed for sqlx::Postgres {
    async fn open(pool: &Pool<Self>) -> Transaction<'static, Self> {
        pool.begin().await.expect("begin")
    }

    async fn age(pool: &Pool<Self>, event_id: Uuid, hours: u32) {
        let sql =
            "UPDATE outbox.projector_inbox SET claimed_at = now() - make_interval(hours => $2) WHERE event_id = $1";
        let aged = sqlx::query(sql).bind(event_id).bind(hours as i32).execute(pool).await.expect("age");
        assert_eq!(aged.rows_affected(), 1);
    }

    async fn add_old(pool: &Pool<Self>, count: i64) {
        let sql = "INSERT INTO outbox.projector_inbox SELECT 'effects', gen_random_uuid(), now() - interval '1 year' \
                   FROM generate_series(1, $1)";
        sqlx::query(sql).bind(count).execute(pool).await.expect("old claims");
    }
}

#[cfg(feature = "sqlite")]
#[async_trait]
impl Bed for sqlx::Sqlite {
    async fn open(pool: &Pool<Self>) -> Transaction<'static, Self> {
        pool.begin_with("BEGIN IMMEDIATE").await.expect("begin")
    }

    async fn age(pool: &Pool<Self>, event_id: Uuid, hours: u32) {
        let sql =
            "UPDATE projector_inbox SET claimed_at = strftime('%Y-%m-%d %H:%M:%f', 'now', $2) WHERE event_id = $1";
        let back = format!("-{hours} hours");
        let aged = sqlx::query(sql).bind(event_id.to_string()).bind(back).execute(pool).await.expect("age");
        assert_eq!(aged.rows_affected(), 1);
    }

    async fn add_old(pool: &Pool<Self>, count: i64) {
        let sql = "WITH RECURSIVE n AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM n WHERE n < $1) \
                   INSERT INTO projector_inbox SELECT 'effects', 'old-' || n, datetime('now', '-1 year') FROM n";
        sqlx::query(sql).bind(count).execute(pool).await.expect("old claims");
    }
}

fn inbox<DB: Bed>(database: &Database<DB>, consumer: &str) -> Inbox<DB> {
    Inbox::new(database.pool.clone(), ProjectionName::parse(consumer).expect("name"))
}

fn effects<DB: Bed>(database: &Database<DB>, handler: impl Handler<DB> + 'static, keys: usize) -> InboxProjection<DB> {
    let name = ProjectionName::parse("effects").expect("name");
    InboxProjection::builder(database.pool.clone(), name, handler).concurrency(keys).build()
}

async fn apply(projection: &impl Projection, events: &[ReceivedEvent]) -> Result<Applied, ProjectionError> {
    let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
    projection.apply(Step::new(&partition, None, &to, events)).await
}
