//! Read models in SQLite.

use std::collections::HashSet;

use async_trait::async_trait;
use outbox_core::projection::Step;
use sqlx::{Sqlite, SqlitePool, Transaction, error::DatabaseError, types::Json};
use uuid::Uuid;

use super::{
    SqlProjection,
    store::Store,
    watermark::{Raised, Watermarks},
};

/// A read model in SQLite.
///
/// Give it the pool that your writers use, best one of a single connection: SQLite has one writer at a time, and its
/// transactions begin `IMMEDIATE`, so that they wait for another (as long as the pool's busy timeout says) instead of
/// failing half-way.
pub type SqliteProjection = SqlProjection<Sqlite>;

impl SqlProjection<Sqlite> {
    /// Creates the projector's tables, or brings them up to date. Several processes may do so at once. Which migrations
    /// ran stands in `projector_migration`.
    ///
    /// # Errors
    /// [`sqlx::Error`] when the database cannot be opened or refuses; nothing has changed then.
    pub async fn migrate(pool: &SqlitePool) -> Result<(), sqlx::Error> {
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(MIGRATION_TABLE).execute(&mut *tx).await?;
        let latest: i64 =
            sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM projector_migration").fetch_one(&mut *tx).await?;
        for (sql, version) in MIGRATIONS.iter().copied().zip(1_i64..).skip(latest as usize) {
            sqlx::raw_sql(sql).execute(&mut *tx).await?;
            let record = "INSERT INTO projector_migration (version) VALUES ($1)";
            sqlx::query(record).bind(version).execute(&mut *tx).await?;
        }
        tx.commit().await
    }

    /// What [`SqlProjection::migrate`] runs on an empty database, for those who run their SQL by hand.
    #[must_use]
    pub fn migration_sql() -> String {
        let mut sql = format!("BEGIN IMMEDIATE;\n{MIGRATION_TABLE}");
        for (migration, version) in MIGRATIONS.iter().zip(1..) {
            sql.push_str(migration);
            let record = format!("INSERT INTO projector_migration (version) VALUES ({version});\n");
            sql.push_str(&record);
        }
        sql.push_str("COMMIT;\n");
        sql
    }
}

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/sqlite/0001_projector.sql"),
    include_str!("migrations/sqlite/0002_dead_letters.sql"),
    include_str!("migrations/sqlite/0003_inbox.sql"),
    include_str!("migrations/sqlite/0004_generations.sql"),
];

const MIGRATION_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS projector_migration (
    version INTEGER PRIMARY KEY,
    applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
) STRICT;
";

/// The tables of one database file.
#[derive(Debug, Default)]
pub struct SqliteTables(());

#[async_trait]
impl Store for Sqlite {
    type Tables = SqliteTables;

    async fn begin(pool: &SqlitePool) -> Result<Transaction<'static, Self>, sqlx::Error> {
        // A transaction that reads before it writes gets BUSY_SNAPSHOT, whatever the timeout, unless it begins so.
        pool.begin_with("BEGIN IMMEDIATE").await
    }

    async fn position(
        _: &SqliteTables,
        pool: &SqlitePool,
        projection: &str,
        partition: &str,
    ) -> Result<Option<String>, sqlx::Error> {
        let sql = "SELECT position FROM projector_position WHERE projection = $1 AND partition = $2";
        sqlx::query_scalar(sql).bind(projection).bind(partition).fetch_optional(pool).await
    }

    async fn move_position(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        step: Step<'_>,
    ) -> Result<bool, sqlx::Error> {
        let sql = if step.from.is_some() {
            "UPDATE projector_position SET position = $3, updated_at = CURRENT_TIMESTAMP \
             WHERE projection = $1 AND partition = $2 AND position = $4"
        } else {
            "INSERT INTO projector_position (projection, partition, position) SELECT $1, $2, $3 \
             WHERE NOT EXISTS (SELECT 1 FROM projector_generation \
             WHERE projection = $1 AND stage IN ('retired', 'dropped')) ON CONFLICT DO NOTHING"
        };
        let mut query = sqlx::query(sql).bind(projection).bind(step.partition.as_str()).bind(step.to.as_text());
        if let Some(from) = step.from {
            query = query.bind(from.as_text());
        }
        Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
    }

    async fn watermarks(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        watermarks: &Watermarks,
    ) -> Result<Vec<(usize, i64)>, sqlx::Error> {
        // CROSS JOIN keeps the planner from scanning the table for each key.
        let sql = "SELECT k.key, w.sequence FROM json_each($2) AS k CROSS JOIN projector_watermark AS w \
                   ON w.projection = $1 AND w.log_id = k.value ->> 0 AND w.aggregate_type = k.value ->> 1 \
                   AND w.ordering_key = k.value ->> 2";
        let keys: Vec<_> =
            watermarks.series().map(|s| (s.log.to_string(), s.aggregate_type.as_str(), &*s.ordering_key)).collect();
        let found: Vec<(i64, i64)> = sqlx::query_as(sql).bind(projection).bind(Json(keys)).fetch_all(&mut **tx).await?;
        Ok(found.into_iter().map(|(index, sequence)| (index as usize, sequence)).collect())
    }

    async fn raise(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        raised: &[Raised<'_>],
    ) -> Result<bool, sqlx::Error> {
        let sql = "INSERT INTO projector_watermark (projection, log_id, aggregate_type, ordering_key, sequence) \
                   SELECT $1, value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($2) WHERE true \
                   ON CONFLICT DO UPDATE SET sequence = max(sequence, excluded.sequence)";
        let rows: Vec<_> = raised
            .iter()
            .map(|r| (r.series.log.to_string(), r.series.aggregate_type.as_str(), &*r.series.ordering_key, r.sequence))
            .collect();
        // Nobody else writes at the same time, so nothing that was new can have come since.
        sqlx::query(sql).bind(projection).bind(Json(rows)).execute(&mut **tx).await.map(|_| true)
    }

    async fn unseen(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        ids: &[Uuid],
    ) -> Result<HashSet<Uuid>, sqlx::Error> {
        let sql = "INSERT INTO projector_seen (projection, event_id) SELECT $1, value FROM json_each($2) WHERE true \
                   ON CONFLICT DO NOTHING RETURNING event_id";
        let text: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        let unseen: Vec<String> =
            sqlx::query_scalar(sql).bind(projection).bind(Json(text)).fetch_all(&mut **tx).await?;
        let unseen: HashSet<String> = unseen.into_iter().collect();
        Ok(ids.iter().copied().filter(|id| unseen.contains(&id.to_string())).collect())
    }

    fn is_missing_table(error: &dyn DatabaseError) -> bool {
        // SQLite has no code of its own for it.
        error.message().starts_with("no such table: projector_")
    }
}
