//! A fresh database per test, with the read model's tables and the projector's.

use async_trait::async_trait;
use outbox_projector::sql::{Handler, ProjectionName, SqlDatabase, SqlProjection};
use sqlx::Pool;

use super::ReadModel;
use super::model::Model;

/// A database of one test.
pub(crate) struct Database<DB: TestDatabase> {
    pub(crate) pool: Pool<DB>,
    kept: DB::Kept,
}

/// What these tests need of a database beyond its pool.
#[async_trait]
pub(crate) trait TestDatabase: SqlDatabase {
    /// Lives as long as the database.
    type Kept: Send + Sync;

    /// With the read model's tables and without the projector's.
    async fn create() -> (Pool<Self>, Self::Kept);
    async fn migrate(pool: &Pool<Self>);
    async fn count(pool: &Pool<Self>, table: &'static str) -> i64;
    /// Of one of the projector's tables.
    async fn drop_column(pool: &Pool<Self>, table: &'static str, column: &'static str);
    /// Key and number.
    async fn list(pool: &Pool<Self>) -> Vec<(String, i64)>;
    /// Key, count and last number.
    async fn last(pool: &Pool<Self>) -> Vec<(String, i64, i64)>;
    async fn drop_all(pool: Pool<Self>, kept: Self::Kept);
}

pub(crate) async fn fresh<DB: TestDatabase>() -> Database<DB> {
    let database = unmigrated().await;
    DB::migrate(&database.pool).await;
    database
}

#[cfg(feature = "postgres")]
pub(crate) async fn fresh_on(version: test_services::PostgresVersion) -> Database<sqlx::Postgres> {
    let (pool, kept) = create_on(version).await;
    sqlx::Postgres::migrate(&pool).await;
    Database { pool, kept }
}

pub(crate) async fn unmigrated<DB: TestDatabase>() -> Database<DB> {
    let (pool, kept) = DB::create().await;
    Database { pool, kept }
}

impl<DB: TestDatabase> Database<DB>
where
    ReadModel: Handler<DB>,
{
    pub(crate) fn projection(&self, handler: ReadModel) -> SqlProjection<DB> {
        projection_on(self.pool.clone(), handler)
    }

    /// What the read model holds.
    pub(crate) async fn model(&self) -> Model {
        let mut model = Model::default();
        for (key, number) in DB::list(&self.pool).await {
            model.0.entry(key).or_default().list.push(number);
        }
        for (key, count, last) in DB::last(&self.pool).await {
            let row = model.0.entry(key).or_default();
            (row.count, row.last) = (count, last);
        }
        model
    }

    /// How many rows a table has; on PostgreSQL the projector's are in schema `outbox`.
    pub(crate) async fn count(&self, table: &'static str) -> i64 {
        DB::count(&self.pool, table).await
    }

    pub(crate) async fn tear_down(self) {
        DB::drop_all(self.pool, self.kept).await;
    }
}

/// The same text for both; `async_trait` does not look into macros that make functions.
macro_rules! all {
    ($pool:ident, $sql:expr) => {
        sqlx::query_as(sqlx::AssertSqlSafe($sql)).fetch_all($pool).await.expect("a query")
    };
}

const LIST: &str = "SELECT key, n FROM model_list ORDER BY id";
const LAST: &str = "SELECT key, count, last FROM model_last";
/// Through another pool than the test's own.
pub(crate) fn projection_on<DB: SqlDatabase>(pool: Pool<DB>, handler: ReadModel) -> SqlProjection<DB>
where
    ReadModel: Handler<DB>,
{
    SqlProjection::builder(pool, ProjectionName::parse("model").expect("name"), handler).build()
}

const LAST_TABLE: &str = "CREATE TABLE model_last (key text PRIMARY KEY, count bigint NOT NULL, last bigint NOT NULL)";

#[cfg(feature = "postgres")]
async fn create_on(version: test_services::PostgresVersion) -> (sqlx::PgPool, test_services::TestDatabase) {
    let database = test_services::TestDatabase::create(version).await;
    let list = "CREATE TABLE model_list (id bigserial PRIMARY KEY, key text NOT NULL, n bigint NOT NULL)";
    for sql in [list, LAST_TABLE] {
        sqlx::query(sql).execute(database.pool()).await.expect("the read model's tables");
    }
    (database.pool().clone(), database)
}

#[cfg(feature = "postgres")]
#[async_trait]
impl TestDatabase for sqlx::Postgres {
    type Kept = test_services::TestDatabase;

    async fn create() -> (Pool<Self>, Self::Kept) {
        create_on(test_services::PostgresVersion::V15).await
    }

    async fn migrate(pool: &Pool<Self>) {
        let schema = outbox_projector::sql::SchemaName::default();
        outbox_projector::sql::PostgresProjection::migrate(pool, &schema).await.expect("migrate");
    }

    async fn count(pool: &Pool<Self>, table: &'static str) -> i64 {
        let counted: Vec<(i64,)> = all!(pool, format!("SELECT count(*) FROM outbox.{table}"));
        counted[0].0
    }

    async fn drop_column(pool: &Pool<Self>, table: &'static str, column: &'static str) {
        let sql = format!("ALTER TABLE outbox.{table} DROP COLUMN {column}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(pool).await.expect("the column goes");
    }

    async fn list(pool: &Pool<Self>) -> Vec<(String, i64)> {
        all!(pool, LIST)
    }

    async fn last(pool: &Pool<Self>) -> Vec<(String, i64, i64)> {
        all!(pool, LAST)
    }

    async fn drop_all(_: Pool<Self>, database: Self::Kept) {
        database.drop_database().await;
    }
}

#[cfg(feature = "sqlite")]
#[async_trait]
impl TestDatabase for sqlx::Sqlite {
    type Kept = tempfile::TempDir;

    async fn create() -> (Pool<Self>, Self::Kept) {
        let folder = tempfile::tempdir().expect("a folder");
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(folder.path().join("model.db"))
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
            .busy_timeout(std::time::Duration::from_secs(30));
        let pool = sqlx::sqlite::SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await
            .expect("a database file");
        let list = "CREATE TABLE model_list (id INTEGER PRIMARY KEY, key text NOT NULL, n bigint NOT NULL)";
        for sql in [list, LAST_TABLE] {
            sqlx::query(sql).execute(&pool).await.expect("the read model's tables");
        }
        (pool, folder)
    }

    async fn migrate(pool: &Pool<Self>) {
        outbox_projector::sql::SqliteProjection::migrate(pool).await.expect("migrate");
    }

    async fn count(pool: &Pool<Self>, table: &'static str) -> i64 {
        let counted: Vec<(i64,)> = all!(pool, format!("SELECT count(*) FROM {table}"));
        counted[0].0
    }

    async fn drop_column(pool: &Pool<Self>, table: &'static str, column: &'static str) {
        let sql = format!("ALTER TABLE {table} DROP COLUMN {column}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(pool).await.expect("the column goes");
    }

    async fn list(pool: &Pool<Self>) -> Vec<(String, i64)> {
        all!(pool, LIST)
    }

    async fn last(pool: &Pool<Self>) -> Vec<(String, i64, i64)> {
        all!(pool, LAST)
    }

    async fn drop_all(pool: Pool<Self>, folder: Self::Kept) {
        pool.close().await;
        drop(folder);
    }
}
