use std::{path::Path, time::Duration};

use anyhow::Context;
use outbox_sqlx::SqliteLog;
use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

/// A SQLite file: one connection writes, several read.
pub(crate) struct SqliteDb {
    writer: SqlitePool,
    pub(super) readers: SqlitePool,
    pub(super) log: SqliteLog,
}

/// How long a request waits for its turn to write or for a reader.
const TURN: Duration = Duration::from_secs(5);
const READERS: u32 = 4;

impl SqliteDb {
    /// Opens or creates the file, and brings its tables up to date.
    pub(crate) async fn open(file: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("the database {} cannot be opened", file.display());
        let writer = pool(1).connect_with(options(file)).await.with_context(cannot)?;
        let (tutors, dead_letters) = (
            include_str!("migrations/sqlite/0001_tutors.sql"),
            include_str!("migrations/sqlite/0002_search_dead_letters.sql"),
        );
        super::migrator(tutors, dead_letters).run(&writer).await.with_context(cannot)?;
        let db = Self::read_beside(writer, file).await.with_context(cannot)?;
        db.log.migrate().await.with_context(cannot)?;
        Ok(db)
    }

    /// Opens the file with the tables it has. Nothing is written before the first transaction.
    pub(crate) async fn open_as_it_is(file: &Path) -> anyhow::Result<Self> {
        let writer = pool(1).connect_lazy_with(options(file).create_if_missing(false));
        let cannot = || format!("the database {} cannot be opened", file.display());
        Self::read_beside(writer, file).await.with_context(cannot)
    }

    async fn read_beside(writer: SqlitePool, file: &Path) -> Result<Self, sqlx::Error> {
        let readers = pool(READERS).connect_with(options(file).read_only(true)).await?;
        let log = SqliteLog::builder(writer.clone()).read_pool(readers.clone()).build();
        Ok(Self { writer, readers, log })
    }

    /// A deferred BEGIN that reads and then writes fails at once when somebody else has written in between, whatever
    /// the busy timeout says.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// The log's settings are the file's: what was committed survives a power cut.
fn options(file: &Path) -> SqliteConnectOptions {
    SqliteLog::connect_options(file).busy_timeout(TURN)
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(connections).acquire_timeout(TURN)
}
