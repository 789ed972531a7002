use std::time::Duration;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};

use super::{GenerationStore, SqlGenerations};
use crate::sql::{PostgresTables, SchemaName};

impl SqlGenerations<Postgres> {
    /// The schema of the projector's own tables. Default: `outbox`.
    #[must_use]
    pub fn schema(self, schema: &SchemaName) -> Self {
        self.with_tables(PostgresTables::within(schema))
    }
}

#[async_trait]
impl GenerationStore for Postgres {
    const HAS_ONE_WRITER: bool = false;

    async fn lock_read_model(
        _: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('outbox-projector/generation/' || $1, 0))")
            .bind(read_model)
            .execute(&mut **tx)
            .await
            .map(drop)
    }

    async fn stages(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
    ) -> Result<Vec<(i64, String)>, sqlx::Error> {
        let sql = tables
            .within_schema("SELECT generation::bigint, stage FROM {schema}.projector_generation WHERE read_model = $1");
        sqlx::query_as(AssertSqlSafe(sql)).bind(read_model).fetch_all(&mut **tx).await
    }

    async fn set_stage(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        generation: i64,
        projection: &str,
        stage: &'static str,
    ) -> Result<(), sqlx::Error> {
        let sql = tables.within_schema(
            "INSERT INTO {schema}.projector_generation (read_model, generation, projection, stage) \
             VALUES ($1, $2::integer, $3, $4) ON CONFLICT (read_model, generation) \
             DO UPDATE SET stage = excluded.stage, changed_at = now()",
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(read_model).bind(generation).bind(projection).bind(stage);
        query.execute(&mut **tx).await.map(drop)
    }

    async fn forget_positions(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
    ) -> Result<(), sqlx::Error> {
        let sql = tables.within_schema("DELETE FROM {schema}.projector_position WHERE projection = $1");
        sqlx::query(AssertSqlSafe(sql)).bind(projection).execute(&mut **tx).await.map(drop)
    }

    async fn forget_some(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        _: u32,
    ) -> Result<bool, sqlx::Error> {
        // All at once, since nobody waits for these rows: each further piece would read past the rows of those before,
        // which stay for as long as anybody has an old snapshot.
        for (table, _) in super::store::TABLES {
            let sql = tables.within_schema(&format!("DELETE FROM {{schema}}.{table} WHERE projection = $1"));
            sqlx::query(AssertSqlSafe(sql)).bind(projection).execute(&mut **tx).await?;
        }
        Ok(true)
    }

    async fn is_retired(tables: &PostgresTables, pool: &PgPool, projection: &str) -> Result<bool, sqlx::Error> {
        let sql = tables.within_schema(
            "SELECT EXISTS (SELECT FROM {schema}.projector_generation \
             WHERE projection = $1 AND stage IN ('retired', 'dropped'))",
        );
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(projection).fetch_one(pool).await
    }

    async fn claim_rebuild(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        holder: &str,
        lease: Duration,
    ) -> Result<bool, sqlx::Error> {
        // Not now(): the transaction may have waited for its turn.
        let sql = tables.within_schema(
            "INSERT INTO {schema}.projector_rebuild AS held (read_model, holder, held_until) \
             VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3)) \
             ON CONFLICT (read_model) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until \
             WHERE held.holder = excluded.holder OR held.held_until <= clock_timestamp()",
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(read_model).bind(holder).bind(lease.as_secs_f64());
        Ok(query.execute(&mut **tx).await?.rows_affected() > 0)
    }

    async fn renew_rebuild(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        holder: &str,
        lease: Duration,
    ) -> Result<bool, sqlx::Error> {
        let sql = tables.within_schema(
            "UPDATE {schema}.projector_rebuild SET held_until = clock_timestamp() + make_interval(secs => $3) \
             WHERE read_model = $1 AND holder = $2",
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(read_model).bind(holder).bind(lease.as_secs_f64());
        Ok(query.execute(&mut **tx).await?.rows_affected() > 0)
    }

    async fn rebuild_holder(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
    ) -> Result<Option<String>, sqlx::Error> {
        let sql = tables.within_schema("SELECT holder FROM {schema}.projector_rebuild WHERE read_model = $1");
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(read_model).fetch_optional(&mut **tx).await
    }

    async fn release_rebuild(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        holder: &str,
    ) -> Result<(), sqlx::Error> {
        let sql = tables.within_schema("DELETE FROM {schema}.projector_rebuild WHERE read_model = $1 AND holder = $2");
        sqlx::query(AssertSqlSafe(sql)).bind(read_model).bind(holder).execute(&mut **tx).await.map(drop)
    }

    async fn run_script(tx: &mut Transaction<'_, Self>, sql: String) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **tx).await.map(drop)
    }
}
