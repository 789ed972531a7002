use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use uuid::Uuid;

use super::{Claimed, Inbox, InboxProjectionBuilder, TryClaimed, store::Store};
use crate::sql::SchemaName;

/// An inbox in PostgreSQL.
pub type PostgresInbox = Inbox<Postgres>;

impl Inbox<Postgres> {
    /// The same consumer's claims in the tables of this schema. Default: `outbox`.
    #[must_use]
    pub fn in_schema(mut self, schema: &SchemaName) -> Self {
        self.table = Arc::new(PostgresInboxTable::within(schema));
        self
    }
}

impl InboxProjectionBuilder<Postgres> {
    /// The schema of the projector's own tables. Default: `outbox`.
    #[must_use]
    pub fn schema(mut self, schema: &SchemaName) -> Self {
        self.0.inbox = self.0.inbox.in_schema(schema);
        self
    }
}

/// The statements on the inbox of one schema.
pub struct PostgresInboxTable {
    claim: Arc<str>,
    try_claim: Arc<str>,
    prune: Arc<str>,
}

impl Default for PostgresInboxTable {
    fn default() -> Self {
        Self::within(&SchemaName::default())
    }
}

impl PostgresInboxTable {
    fn within(schema: &SchemaName) -> Self {
        let table = format!("\"{schema}\".projector_inbox");
        // Both ways of claiming take the same lock: otherwise trying would wait for the row of one that waits.
        let key = format!("hashtextextended('{table}/' || $1 || '/' || $2::text, 0)");
        let insert = |turn: &str| {
            format!("INSERT INTO {table} (consumer, event_id) SELECT $1, $2 FROM {turn} ON CONFLICT DO NOTHING")
        };
        let claim = format!("WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock({key})) {}", insert("turn"));
        let try_claim = format!(
            "WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock({key}) AS mine), \
             claimed AS ({} RETURNING event_id) \
             SELECT EXISTS (SELECT FROM claimed), \
                    mine OR EXISTS (SELECT FROM {table} WHERE consumer = $1 AND event_id = $2) FROM turn",
            insert("turn WHERE mine")
        );
        // By ctid: a join on the id is planned as a scan of the table, since the plan does not know the limit.
        let prune = format!(
            "DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} \
               WHERE consumer = $1 AND claimed_at < now() - make_interval(secs => $2) \
               ORDER BY claimed_at LIMIT $3 FOR UPDATE SKIP LOCKED))"
        );
        Self { claim: claim.into(), try_claim: try_claim.into(), prune: prune.into() }
    }
}

#[async_trait]
impl Store for Postgres {
    type Table = PostgresInboxTable;

    const WRITES_SIDE_BY_SIDE: bool = true;

    async fn claim(
        table: &PostgresInboxTable,
        tx: &mut Transaction<'_, Self>,
        consumer: &str,
        event_id: Uuid,
    ) -> Result<Claimed, sqlx::Error> {
        let claim = sqlx::query(AssertSqlSafe(table.claim.clone())).bind(consumer).bind(event_id);
        let new = claim.execute(&mut **tx).await?.rows_affected() == 1;
        Ok(if new { Claimed::New } else { Claimed::Seen })
    }

    async fn try_claim(
        table: &PostgresInboxTable,
        tx: &mut Transaction<'_, Self>,
        consumer: &str,
        event_id: Uuid,
    ) -> Result<TryClaimed, sqlx::Error> {
        let claim = sqlx::query_as(AssertSqlSafe(table.try_claim.clone())).bind(consumer).bind(event_id);
        Ok(match claim.fetch_one(&mut **tx).await? {
            (true, _) => TryClaimed::New,
            (false, true) => TryClaimed::Seen,
            (false, false) => TryClaimed::Busy,
        })
    }

    async fn prune(
        table: &PostgresInboxTable,
        pool: &PgPool,
        consumer: &str,
        older_than: Duration,
        limit: u32,
    ) -> Result<u64, sqlx::Error> {
        let prune = sqlx::query(AssertSqlSafe(table.prune.clone()))
            .bind(consumer)
            .bind(older_than.as_secs_f64())
            .bind(i64::from(limit));
        Ok(prune.execute(pool).await?.rows_affected())
    }
}
