//! Read models in PostgreSQL.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use outbox_core::{event::LogId, projection::Step};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row as _, Transaction, error::DatabaseError};
use uuid::Uuid;

use super::{SchemaName, Series, SqlProjection, SqlProjectionBuilder, store::Store, watermark::Watermarks};

/// A read model in PostgreSQL.
///
/// Its transactions are `READ COMMITTED`, whatever the database's default: the compare-and-swap waits for a competing
/// runner and then sees what it did. No session state is used, so it works behind a pooler.
pub type PostgresProjection = SqlProjection<Postgres>;

impl SqlProjectionBuilder<Postgres> {
    /// The schema of the projector's own tables. Default: `outbox`.
    #[must_use]
    pub fn schema(self, schema: &SchemaName) -> Self {
        self.tables(PostgresTables::within(schema))
    }
}

impl SqlProjection<Postgres> {
    /// Creates the projector's tables in this schema, and the schema when it is missing, or brings them up to date.
    /// Several processes may do so at once. Which migrations ran stands in `projector_migration`.
    ///
    /// # Errors
    /// [`sqlx::Error`] when the database cannot be reached or refuses; nothing has changed then.
    pub async fn migrate(pool: &PgPool, schema: &SchemaName) -> Result<(), sqlx::Error> {
        let mut tx = pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('outbox-projector/' || $1, 0))")
            .bind(schema.as_str())
            .execute(&mut *tx)
            .await?;
        // IF NOT EXISTS asks for the right to create schemas even where there is nothing to create.
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
            .bind(schema.as_str())
            .fetch_one(&mut *tx)
            .await?;
        if !exists {
            sqlx::raw_sql(AssertSqlSafe(create_schema(schema))).execute(&mut *tx).await?;
        }
        sqlx::raw_sql(AssertSqlSafe(create_migration_table(schema))).execute(&mut *tx).await?;
        let latest = format!("SELECT coalesce(max(version), 0) FROM {}.projector_migration", quoted(schema));
        let latest: i32 = sqlx::query_scalar(AssertSqlSafe(latest)).fetch_one(&mut *tx).await?;
        for (version, sql) in migrations(schema).skip(latest as usize) {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await?;
            sqlx::raw_sql(AssertSqlSafe(record_migration(schema, version))).execute(&mut *tx).await?;
        }
        tx.commit().await
    }

    /// What [`SqlProjection::migrate`] runs on an empty database, for those who run their SQL by hand.
    #[must_use]
    pub fn migration_sql(schema: &SchemaName) -> String {
        let mut sql = format!("BEGIN;\n{}{}", create_schema(schema), create_migration_table(schema));
        for (version, migration) in migrations(schema) {
            sql.push_str(&migration);
            sql.push_str(&record_migration(schema, version));
        }
        sql.push_str("COMMIT;\n");
        sql
    }
}

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/postgres/0001_projector.sql"),
    include_str!("migrations/postgres/0002_dead_letters.sql"),
    include_str!("migrations/postgres/0003_inbox.sql"),
    include_str!("migrations/postgres/0004_generations.sql"),
    include_str!("migrations/postgres/0005_previous_watermark.sql"),
    include_str!("migrations/postgres/0006_rebuilds.sql"),
];

fn migrations(schema: &SchemaName) -> impl Iterator<Item = (usize, String)> {
    MIGRATIONS.iter().zip(1..).map(|(sql, version)| (version, sql.replace("{schema}", &quoted(schema))))
}

fn create_schema(schema: &SchemaName) -> String {
    format!("CREATE SCHEMA IF NOT EXISTS {};\n", quoted(schema))
}

fn create_migration_table(schema: &SchemaName) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {}.projector_migration (\n    version integer PRIMARY KEY,\n    \
         applied_at timestamptz NOT NULL DEFAULT now()\n);\n",
        quoted(schema)
    )
}

fn record_migration(schema: &SchemaName, version: usize) -> String {
    format!("INSERT INTO {}.projector_migration (version) VALUES ({version});\n", quoted(schema))
}

/// Parsed names hold nothing to escape; quotes keep keywords from being taken as such.
fn quoted(schema: &SchemaName) -> String {
    format!("\"{schema}\"")
}

/// The statements on the tables of one schema.
pub struct PostgresTables {
    schema: Arc<str>,
    position: Arc<str>,
    move_from: Arc<str>,
    move_first: Arc<str>,
    raise: Arc<str>,
    lock: Arc<str>,
    unseen: Arc<str>,
}

impl Default for PostgresTables {
    fn default() -> Self {
        Self::within(&SchemaName::default())
    }
}

impl PostgresTables {
    /// A statement that is not run often, with the schema in place of `{schema}`.
    pub(super) fn within_schema(&self, template: &str) -> String {
        template.replace("{schema}", &self.schema)
    }

    pub(super) fn within(schema: &SchemaName) -> Self {
        let sql = |template: &str| Arc::from(template.replace("{schema}", &quoted(schema)));
        Self {
            schema: quoted(schema).into(),
            position: sql("SELECT position FROM {schema}.projector_position WHERE projection = $1 AND partition = $2"),
            move_from: sql("UPDATE {schema}.projector_position SET position = $3, updated_at = now() \
                 WHERE projection = $1 AND partition = $2 AND position = $4"),
            move_first: sql("INSERT INTO {schema}.projector_position (projection, partition, position) \
                 SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM {schema}.projector_generation \
                 WHERE projection = $1 AND stage IN ('retired', 'dropped')) ON CONFLICT DO NOTHING"),
            // One write and one look into the index a key, whatever the planner knows of the table; a join may read all
            // watermarks of the projection. A row that came since the statement began is met as well.
            raise: sql("INSERT INTO {schema}.projector_watermark AS w \
                   (projection, log_id, aggregate_type, ordering_key, sequence) \
                 SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bigint[]) \
                 ON CONFLICT (projection, log_id, aggregate_type, ordering_key) DO UPDATE \
                 SET previous = w.sequence, sequence = greatest(w.sequence, excluded.sequence) \
                 RETURNING log_id, aggregate_type, ordering_key, previous"),
            // A watermark below every sequence, where there was none: a row is what others wait for.
            lock: sql("INSERT INTO {schema}.projector_watermark AS w \
                   (projection, log_id, aggregate_type, ordering_key, sequence) VALUES ($1, $2, $3, $4, -1) \
                 ON CONFLICT (projection, log_id, aggregate_type, ordering_key) DO UPDATE SET sequence = w.sequence"),
            unseen: sql("INSERT INTO {schema}.projector_seen (projection, event_id) SELECT $1, id \
                 FROM unnest($2::uuid[]) AS id ON CONFLICT DO NOTHING RETURNING event_id"),
        }
    }
}

#[async_trait]
impl Store for Postgres {
    type Tables = PostgresTables;

    async fn begin(pool: &PgPool) -> Result<Transaction<'static, Self>, sqlx::Error> {
        pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await
    }

    async fn position(
        tables: &PostgresTables,
        pool: &PgPool,
        projection: &str,
        partition: &str,
    ) -> Result<Option<String>, sqlx::Error> {
        let sql = AssertSqlSafe(tables.position.clone());
        sqlx::query_scalar(sql).bind(projection).bind(partition).fetch_optional(pool).await
    }

    async fn move_position(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        step: Step<'_>,
    ) -> Result<bool, sqlx::Error> {
        let sql = if step.from.is_some() { &tables.move_from } else { &tables.move_first };
        let mut query = sqlx::query(AssertSqlSafe(sql.clone()))
            .bind(projection)
            .bind(step.partition.as_str())
            .bind(step.to.as_text());
        if let Some(from) = step.from {
            query = query.bind(from.as_text());
        }
        Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
    }

    async fn raise(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        watermarks: &mut Watermarks,
    ) -> Result<(), sqlx::Error> {
        let stood = sqlx::query(AssertSqlSafe(tables.raise.clone()))
            .bind(projection)
            .bind(watermarks.iter().map(|mark| mark.series.log.0).collect::<Vec<_>>())
            .bind(watermarks.iter().map(|mark| mark.series.aggregate_type.as_str()).collect::<Vec<_>>())
            .bind(watermarks.iter().map(|mark| mark.series.ordering_key.as_str()).collect::<Vec<_>>())
            .bind(watermarks.iter().map(|mark| mark.highest).collect::<Vec<_>>())
            .fetch_all(&mut **tx)
            .await?;
        for row in stood {
            watermarks.stood(LogId(row.try_get(0)?), row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
        }
        Ok(())
    }

    async fn lock(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        series: &Series,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(AssertSqlSafe(tables.lock.clone()))
            .bind(projection)
            .bind(series.log.0)
            .bind(series.aggregate_type.as_str())
            .bind(&series.ordering_key)
            .execute(&mut **tx)
            .await
            .map(drop)
    }

    async fn probe(tx: &mut Transaction<'_, Self>) -> Result<(), sqlx::Error> {
        // COMMIT answers a transaction that a failed statement broke with success, having rolled it back.
        sqlx::query("SELECT 1").execute(&mut **tx).await.map(drop)
    }

    async fn unseen(
        tables: &PostgresTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        ids: &[Uuid],
    ) -> Result<HashSet<Uuid>, sqlx::Error> {
        let sql = AssertSqlSafe(tables.unseen.clone());
        let unseen: Vec<Uuid> = sqlx::query_scalar(sql).bind(projection).bind(ids).fetch_all(&mut **tx).await?;
        Ok(unseen.into_iter().collect())
    }

    fn is_missing_table(error: &dyn DatabaseError) -> bool {
        // undefined_table, invalid_schema_name; undefined_column, where an earlier version migrated
        error.code().is_some_and(|code| ["42P01", "3F000", "42703"].contains(&&*code))
    }
}
