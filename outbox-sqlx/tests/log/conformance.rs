//! The suite that every log has to pass.

use async_trait::async_trait;
use outbox_core::{outbox::Outbox, testing::outbox_and_log::LogHarness};
use outbox_sqlx::{PostgresLog, SqliteLog};
use sqlx::{Postgres, Sqlite, SqlitePool, Transaction};
use test_services::PostgresVersion;

use crate::{sqlite::SqliteBed, support::Bed};

#[async_trait]
impl LogHarness for Bed {
    type Log = PostgresLog;

    fn log(&self) -> &PostgresLog {
        &self.log
    }

    async fn open_again(&self) -> PostgresLog {
        let pool = self.database.pool().clone();
        PostgresLog::builder(pool).wake(outbox_core::wake::Wake::default()).open().await.expect("open")
    }

    async fn begin(&self) -> Transaction<'static, Postgres> {
        self.pool.begin().await.expect("begin")
    }

    async fn commit(&self, tx: Transaction<'static, Postgres>) {
        tx.commit().await.expect("commit");
    }

    async fn rollback(&self, tx: Transaction<'static, Postgres>) {
        tx.rollback().await.expect("rollback");
    }

    async fn tear_down(self) {
        self.drop().await;
    }
}

#[async_trait]
impl LogHarness for SqliteBed {
    type Log = SqliteLog;

    fn log(&self) -> &SqliteLog {
        &self.log
    }

    async fn open_again(&self) -> SqliteLog {
        let pool: SqlitePool = self.connect(2).await;
        SqliteLog::builder(pool).open().await.expect("open")
    }

    async fn begin(&self) -> <SqliteLog as Outbox>::Tx<'static> {
        self.write.begin_with("BEGIN IMMEDIATE").await.expect("begin")
    }

    async fn commit(&self, tx: Transaction<'static, Sqlite>) {
        tx.commit().await.expect("commit");
    }

    async fn rollback(&self, tx: Transaction<'static, Sqlite>) {
        tx.rollback().await.expect("rollback");
    }
}

outbox_core::outbox_log_suite!(postgres_15, || Bed::create(PostgresVersion::V15));
outbox_core::outbox_log_suite!(postgres_18, || Bed::create(PostgresVersion::V18));
outbox_core::outbox_log_suite!(postgres_15_ring, || Bed::create_ring(PostgresVersion::V15));
outbox_core::outbox_log_suite!(postgres_18_ring, || Bed::create_ring(PostgresVersion::V18));
outbox_core::outbox_log_suite!(sqlite, SqliteBed::create);
