use std::{path::Path, time::Duration};

use anyhow::Context;
use outbox_sqlx::SqliteLog;
use sqlx::{Sqlite, SqlitePool, Transaction, sqlite::SqlitePoolOptions};

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
        // The log's settings are the file's: what was committed survives a power cut.
        let options = SqliteLog::connect_options(file).busy_timeout(TURN);
        let pool = |connections| SqlitePoolOptions::new().max_connections(connections).acquire_timeout(TURN);
        let cannot = || format!("the database {} cannot be opened", file.display());
        let writer = pool(1).connect_with(options.clone()).await.with_context(cannot)?;
        let (tutors, dead_letters) = (
            include_str!("migrations/sqlite/0001_tutors.sql"),
            include_str!("migrations/sqlite/0002_search_dead_letters.sql"),
        );
        super::migrator(tutors, dead_letters).run(&writer).await.with_context(cannot)?;
        let readers = pool(READERS).connect_with(options.read_only(true)).await.with_context(cannot)?;
        let log = SqliteLog::builder(writer.clone()).read_pool(readers.clone()).build();
        log.migrate().await.with_context(cannot)?;
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
