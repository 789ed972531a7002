use std::time::Duration;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Sqlite, SqlitePool, Transaction};

use super::GenerationStore;
use crate::sql::SqliteTables;

/// In milliseconds since 1970.
const NOW: &str = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";

#[async_trait]
impl GenerationStore for Sqlite {
    const HAS_ONE_WRITER: bool = true;

    async fn lock_read_model(_: &SqliteTables, _: &mut Transaction<'_, Self>, _: &str) -> Result<(), sqlx::Error> {
        // The transaction began as the only one that writes.
        Ok(())
    }

    async fn stages(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
    ) -> Result<Vec<(i64, String)>, sqlx::Error> {
        let sql = "SELECT generation, stage FROM projector_generation WHERE read_model = $1";
        sqlx::query_as(sql).bind(read_model).fetch_all(&mut **tx).await
    }

    async fn set_stage(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        generation: i64,
        projection: &str,
        stage: &'static str,
    ) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO projector_generation (read_model, generation, projection, stage) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (read_model, generation) DO UPDATE \
                   SET stage = excluded.stage, changed_at = CURRENT_TIMESTAMP";
        let query = sqlx::query(sql).bind(read_model).bind(generation).bind(projection).bind(stage);
        query.execute(&mut **tx).await.map(drop)
    }

    async fn forget_positions(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
    ) -> Result<(), sqlx::Error> {
        let sql = "DELETE FROM projector_position WHERE projection = $1";
        sqlx::query(sql).bind(projection).execute(&mut **tx).await.map(drop)
    }

    async fn forget_some(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        limit: u32,
    ) -> Result<bool, sqlx::Error> {
        let mut is_all = true;
        for (table, key) in super::store::TABLES {
            let sql = AssertSqlSafe(format!(
                "DELETE FROM {table} WHERE projection = $1 \
                 AND ({key}) IN (SELECT {key} FROM {table} WHERE projection = $1 LIMIT $2)"
            ));
            let forgotten = sqlx::query(sql).bind(projection).bind(i64::from(limit)).execute(&mut **tx).await?;
            is_all &= forgotten.rows_affected() < u64::from(limit);
        }
        Ok(is_all)
    }

    async fn is_retired(_: &SqliteTables, pool: &SqlitePool, projection: &str) -> Result<bool, sqlx::Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM projector_generation \
                   WHERE projection = $1 AND stage IN ('retired', 'dropped'))";
        sqlx::query_scalar(sql).bind(projection).fetch_one(pool).await
    }

    async fn claim_rebuild(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        holder: &str,
        lease: Duration,
    ) -> Result<bool, sqlx::Error> {
        let sql = format!(
            "INSERT INTO projector_rebuild (read_model, holder, held_until) VALUES ($1, $2, {NOW} + $3) \
             ON CONFLICT (read_model) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until \
             WHERE projector_rebuild.holder = excluded.holder OR projector_rebuild.held_until <= {NOW}"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(read_model).bind(holder).bind(milliseconds(lease));
        Ok(query.execute(&mut **tx).await?.rows_affected() > 0)
    }

    async fn renew_rebuild(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        holder: &str,
        lease: Duration,
    ) -> Result<bool, sqlx::Error> {
        let sql = format!("UPDATE projector_rebuild SET held_until = {NOW} + $3 WHERE read_model = $1 AND holder = $2");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(read_model).bind(holder).bind(milliseconds(lease));
        Ok(query.execute(&mut **tx).await?.rows_affected() > 0)
    }

    async fn rebuild_holder(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
    ) -> Result<Option<String>, sqlx::Error> {
        let sql = "SELECT holder FROM projector_rebuild WHERE read_model = $1";
        sqlx::query_scalar(sql).bind(read_model).fetch_optional(&mut **tx).await
    }

    async fn release_rebuild(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        holder: &str,
    ) -> Result<(), sqlx::Error> {
        let sql = "DELETE FROM projector_rebuild WHERE read_model = $1 AND holder = $2";
        sqlx::query(sql).bind(read_model).bind(holder).execute(&mut **tx).await.map(drop)
    }

    async fn run_script(tx: &mut Transaction<'_, Self>, sql: String) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **tx).await.map(drop)
    }
}

fn milliseconds(lease: Duration) -> i64 {
    i64::try_from(lease.as_millis()).unwrap_or(i64::MAX / 2)
}
