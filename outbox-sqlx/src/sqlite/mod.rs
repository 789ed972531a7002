//! The log in a SQLite file.
//!
//! [`SqliteLog`] is both halves: [`Outbox`] for writers, over `sqlx::Transaction<'_, Sqlite>`, and [`EventLog`] for relays
//! and projections. Several processes may use one file.
//!
//! # Settings of the connections
//!
//! Use [`SqliteLog::connect_options`], or the same settings: `journal_mode=WAL`, so that readers and the writer do not
//! wait for each other; `synchronous=FULL`, because with `NORMAL` a power cut takes back events that were already read;
//! a `busy_timeout`, for SQLite has one writer at a time.
//!
//! Begin transactions that write with `pool.begin_with("BEGIN IMMEDIATE")`. A plain `BEGIN` that reads first and writes
//! later fails with `SQLITE_BUSY` as soon as somebody else wrote in between, whatever the timeout. One write connection
//! and a pool of read connections work best:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use outbox_sqlx::SqliteLog;
//! use sqlx::sqlite::SqlitePoolOptions;
//!
//! let options = SqliteLog::connect_options("shop.db");
//! let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
//! let read = SqlitePoolOptions::new().connect_with(options.read_only(true)).await?;
//! let log = SqliteLog::builder(write).read_pool(read).build();
//! log.migrate().await?;
//! # Ok(()) }
//! ```

mod append;
mod consumers;
mod cursor;
mod error;
mod reader;
mod schema;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    event::{LaneCount, LaneSet, NewEvent},
    log::{
        Assignment, ConsumerName, Cursor, EventLog, Fence, LogCapabilities, LogError, LogErrorKind, LogIdentity,
        MemberId, Page, Progress, StartAt,
    },
    outbox::{AppendError, Outbox, Receipt},
    profile::Profile,
    wake::Wake,
};
use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

/// A log in a SQLite file. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct SqliteLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    write: SqlitePool,
    read: SqlitePool,
    profile: Profile,
    lanes: Option<LaneCount>,
    wake: Wake,
    /// What never changes while the log exists; the generation in it may.
    frozen: OnceLock<LogIdentity>,
}

impl SqliteLog {
    /// Starts with the defaults: reading from the same pool, the default [`Profile`], 64 lanes if the log has to be
    /// created.
    ///
    /// `write` is used for the consumers' own writes; events are written through the caller's transactions.
    pub fn builder(write: SqlitePool) -> SqliteLogBuilder {
        SqliteLogBuilder { write, read: None, profile: Profile::default(), lanes: None, wake: Wake::default() }
    }

    /// The settings that a log needs: WAL, `synchronous=FULL`, a busy timeout of 5 s, foreign keys. The file is created
    /// if it is missing.
    #[must_use]
    pub fn connect_options(path: impl AsRef<Path>) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            .foreign_keys(true)
    }

    /// Creates the tables or brings them up to date; does nothing when they are. Safe to call from several processes at
    /// once. Its notes are in `_outbox_migrations`: other users' migrations are not touched.
    ///
    /// # Errors
    /// [`LogErrorKind::Incompatible`] when the tables were made by a newer library or with another number of lanes,
    /// [`LogErrorKind::ReadOnly`] or [`LogErrorKind::Database`] when they cannot be made,
    /// [`LogErrorKind::Unavailable`] when the file is busy for longer than the timeout. Nothing was changed then.
    ///
    /// # Cancellation
    /// All in one transaction: either everything is done or nothing.
    pub async fn migrate(&self) -> Result<(), LogError> {
        match self.identity().await {
            Err(error) if error.kind() == LogErrorKind::NotMigrated => {}
            known => return known.map(drop),
        }
        schema::migrate(&self.inner.write, self.inner.lanes.unwrap_or_default()).await?;
        self.identity().await.map(drop)
    }

    /// What [`SqliteLog::migrate`] would run on an empty file, as a script for another tool. `migrate` recognises a log
    /// that was made this way. Run it in one transaction.
    #[must_use]
    pub fn migration_sql(lanes: LaneCount) -> String {
        schema::migration_sql(lanes)
    }
}

/// Settings of a [`SqliteLog`].
#[derive(Debug, Clone)]
#[must_use = "call `open` or `build`"]
pub struct SqliteLogBuilder {
    write: SqlitePool,
    read: Option<SqlitePool>,
    profile: Profile,
    lanes: Option<LaneCount>,
    wake: Wake,
}

impl SqliteLogBuilder {
    /// Reads through this pool, so that readers do not wait for the write connection.
    pub fn read_pool(mut self, pool: SqlitePool) -> Self {
        self.read = Some(pool);
        self
    }

    /// What is refused at append because it could not be published. Relays need the same one.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// How many lanes the log gets when it is created. Asking an existing log for another number is an error; without
    /// this call it is taken as it is.
    pub fn lanes(mut self, lanes: LaneCount) -> Self {
        self.lanes = Some(lanes);
        self
    }

    /// Shares a bell with other handles on the same log. Default: one of its own.
    pub fn wake(mut self, wake: Wake) -> Self {
        self.wake = wake;
        self
    }

    /// The log, without asking the database: for a log that may have to be migrated first.
    #[must_use]
    pub fn build(self) -> SqliteLog {
        let Self { write, read, profile, lanes, wake } = self;
        let read = read.unwrap_or_else(|| write.clone());
        SqliteLog { inner: Arc::new(Inner { write, read, profile, lanes, wake, frozen: OnceLock::new() }) }
    }

    /// The log, after [`SqliteLog::migrate`].
    ///
    /// # Errors
    /// See [`SqliteLog::migrate`].
    pub async fn migrate(self) -> Result<SqliteLog, LogError> {
        let log = self.build();
        log.migrate().await?;
        Ok(log)
    }

    /// The log, after checking that it is there and as expected.
    ///
    /// # Errors
    /// [`LogErrorKind::NotMigrated`] when the tables are missing or old, [`LogErrorKind::Incompatible`] when they are of
    /// a newer version or another number of lanes was asked for, and what [`EventLog`] says about databases that cannot
    /// be reached.
    pub async fn open(self) -> Result<SqliteLog, LogError> {
        let log = self.build();
        log.identity().await?;
        Ok(log)
    }
}

#[async_trait]
impl Outbox for SqliteLog {
    type Tx<'t> = Transaction<'t, Sqlite>;

    async fn append(&self, tx: &mut Self::Tx<'_>, events: &[NewEvent]) -> Result<Receipt, AppendError> {
        append::append(&self.inner, tx, events).await
    }
}

#[async_trait]
impl EventLog for SqliteLog {
    fn capabilities(&self) -> LogCapabilities {
        LogCapabilities::full().with_concurrent_writers(false)
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        let mut conn = self.inner.read.acquire().await.map_err(error::log)?;
        reader::identity(&self.inner, &mut conn).await
    }

    async fn register(&self, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
        consumers::register(&self.inner, consumer, start).await
    }

    async fn join(
        &self,
        consumer: &ConsumerName,
        member: MemberId,
        lease: Duration,
    ) -> Result<Option<Assignment>, LogError> {
        consumers::join(&self.inner, consumer, member, lease).await
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<(), LogError> {
        consumers::renew(&self.inner, fence, lease).await
    }

    async fn leave(&self, fence: &Fence) -> Result<(), LogError> {
        consumers::leave(&self.inner, fence).await
    }

    async fn read(&self, cursor: &Cursor, lanes: LaneSet, limit: usize) -> Result<Page, LogError> {
        reader::read(&self.inner, cursor, lanes, limit.max(1)).await
    }

    async fn checkpoint(&self, fence: &Fence, cursor: &Cursor) -> Result<(), LogError> {
        consumers::checkpoint(&self.inner, fence, cursor).await
    }

    async fn progress(&self, consumer: &ConsumerName) -> Result<Progress, LogError> {
        consumers::progress(&self.inner, consumer).await
    }

    fn wake(&self) -> &Wake {
        &self.inner.wake
    }
}
