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

    async fn forget_generation(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        generation: i64,
    ) -> Result<(), sqlx::Error> {
        let sql = tables.within_schema(
            "DELETE FROM {schema}.projector_generation WHERE read_model = $1 AND generation = $2::integer",
        );
        sqlx::query(AssertSqlSafe(sql)).bind(read_model).bind(generation).execute(&mut **tx).await.map(drop)
    }

    async fn forget_positions(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
    ) -> Result<(), sqlx::Error> {
        let sql = tables.within_schema("DELETE FROM {schema}.projector_position WHERE projection = $1");
        sqlx::query(AssertSqlSafe(sql)).bind(projection).execute(&mut **tx).await.map(drop)
    }

    async fn forget_all(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
    ) -> Result<(), sqlx::Error> {
        for table in super::store::TABLES {
            let sql = tables.within_schema(&format!("DELETE FROM {{schema}}.{table} WHERE projection = $1"));
            sqlx::query(AssertSqlSafe(sql)).bind(projection).execute(&mut **tx).await?;
        }
        Ok(())
    }

    async fn is_retired(tables: &PostgresTables, pool: &PgPool, projection: &str) -> Result<bool, sqlx::Error> {
        let sql = tables.within_schema(
            "SELECT EXISTS (SELECT FROM {schema}.projector_generation \
             WHERE projection = $1 AND stage IN ('retired', 'dropped'))",
        );
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(projection).fetch_one(pool).await
    }

    async fn run_script(tx: &mut Transaction<'_, Self>, sql: String) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **tx).await.map(drop)
    }
}
