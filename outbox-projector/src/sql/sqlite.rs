//! Read models in SQLite.

use std::collections::HashSet;

use async_trait::async_trait;
use outbox_core::{event::LogId, projection::Step};
use sqlx::{Row as _, Sqlite, SqlitePool, Transaction, error::DatabaseError, types::Json};
use uuid::{Uuid, fmt::Hyphenated};

use super::{
    Series, SqlProjection,
    store::Store,
    watermark::{Watermark, Watermarks},
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
    include_str!("migrations/sqlite/0005_previous_watermark.sql"),
    include_str!("migrations/sqlite/0006_rebuilds.sql"),
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

    async fn raise(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        watermarks: &mut Watermarks,
    ) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO projector_watermark (projection, log_id, aggregate_type, ordering_key, sequence) \
                   SELECT $1, value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($2) WHERE true \
                   ON CONFLICT DO UPDATE SET previous = sequence, sequence = max(sequence, excluded.sequence) \
                   RETURNING log_id, aggregate_type, ordering_key, previous";
        let rows: Vec<_> = watermarks
            .iter()
            .map(|Watermark { series: s, highest, .. }| {
                (s.log.to_string(), s.aggregate_type.as_str(), &*s.ordering_key, highest)
            })
            .collect();
        for row in sqlx::query(sql).bind(projection).bind(Json(rows)).fetch_all(&mut **tx).await? {
            let log: Hyphenated = row.try_get(0)?;
            watermarks.stood(LogId(log.into()), row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
        }
        Ok(())
    }

    async fn lock(_: &SqliteTables, _: &mut Transaction<'_, Self>, _: &str, _: &Series) -> Result<(), sqlx::Error> {
        // The transaction has locked the whole file when it began.
        Ok(())
    }

    async fn probe(_: &mut Transaction<'_, Self>) -> Result<(), sqlx::Error> {
        // A failed statement breaks nothing, or it ends the transaction, and then there is nothing to commit.
        Ok(())
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
        // SQLite has no code of its own for it. A column is missing where an earlier version migrated.
        ["no such table: projector_", "no such column: "].iter().any(|known| error.message().starts_with(known))
    }
}
