use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Sqlite, SqlitePool, Transaction};

use super::GenerationStore;
use crate::sql::SqliteTables;

#[async_trait]
impl GenerationStore for Sqlite {
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

    async fn forget_generation(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        read_model: &str,
        generation: i64,
    ) -> Result<(), sqlx::Error> {
        let sql = "DELETE FROM projector_generation WHERE read_model = $1 AND generation = $2";
        sqlx::query(sql).bind(read_model).bind(generation).execute(&mut **tx).await.map(drop)
    }

    async fn forget_positions(
        _: &SqliteTables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
    ) -> Result<(), sqlx::Error> {
        let sql = "DELETE FROM projector_position WHERE projection = $1";
        sqlx::query(sql).bind(projection).execute(&mut **tx).await.map(drop)
    }

    async fn forget_all(_: &SqliteTables, tx: &mut Transaction<'_, Self>, projection: &str) -> Result<(), sqlx::Error> {
        for table in super::store::TABLES {
            let sql = AssertSqlSafe(format!("DELETE FROM {table} WHERE projection = $1"));
            sqlx::query(sql).bind(projection).execute(&mut **tx).await?;
        }
        Ok(())
    }

    async fn is_retired(_: &SqliteTables, pool: &SqlitePool, projection: &str) -> Result<bool, sqlx::Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM projector_generation \
                   WHERE projection = $1 AND stage IN ('retired', 'dropped'))";
        sqlx::query_scalar(sql).bind(projection).fetch_one(pool).await
    }

    async fn run_script(tx: &mut Transaction<'_, Self>, sql: String) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **tx).await.map(drop)
    }
}
