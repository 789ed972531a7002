//! The log in a SQLite file.
//!
//! [`SqliteLog`] is both halves: [`Outbox`] for writers, over `sqlx::Transaction<'_, Sqlite>`, and [`EventLog`] for relays
//! and projections. Several processes may use one file.
//!
//! # Settings of the connections
//!
//! Use [`SqliteLog::connect_options`], or the same settings: `journal_mode=WAL`, so that readers and the writer do not
//! wait for each other; `synchronous=FULL`, because with `NORMAL` a power cut takes back events that were already read;
//! a `busy_timeout`, for SQLite has one writer at a time. `migrate` and `open` refuse a log whose own connections have
//! another journal mode or less than `FULL`. The connections that the application appends through are its own: nobody
//! checks them.
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
//!
//! # What is different from PostgreSQL
//!
//! * One transaction writes at a time ([`LogCapabilities::concurrent_writers`] is false), so the order of positions is
//!   the order of commits, and a cursor is a position.
//! * Members' writes queue with everybody else's. A renewal that changes nothing writes one page; looking around, reading
//!   and [`EventLog::due_parked`] write nothing and wait for nobody.
//! * Leases run on the clock of the machine. All processes that use the file are on it: SQLite's WAL needs shared memory,
//!   so a file on a network drive does not work.
//! * [`LogAdmin::prune`] removes up to 2,000 positions, or about 8 MiB of payload, in a transaction and leaves the file to
//!   others for as long as each took. A writer may wait for one of them, so keep the `busy_timeout`. The file does not shrink; new events use the room.
//! * A file that was put back from a backup looks the same as one that never went on: **nothing can tell**. Run
//!   [`LogAdmin::reanchor`] before anybody writes to it. Two restores of *one* backup get the same generation, since each
//!   begins from what is in that file: if what the first one published is still in use, re-anchor twice.

mod append;
mod builder;
mod consumers;
mod cursor;
mod doctor;
mod error;
mod reader;
mod restored;
mod retention;
mod schema;
mod settings;
mod writing;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    event::{LaneCount, NewEvent, RecordedEvent, Sequence},
    log::{
        Assignment, Claim, ConsumerInfo, ConsumerName, DiscardedEvent, EventLog, EventStatus, Fence, LogAdmin,
        LogCapabilities, LogError, LogErrorKind, LogIdentity, MemberId, Page, Park, Parked, ParkedEvent, Progress,
        Pruned, Reanchored, Redrive, Redriven, Renewal, Republished, RetentionPolicy, StartAt, Track,
    },
    outbox::{AppendError, Outbox, Receipt},
    profile::Profile,
    wake::Wake,
};
use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

pub use self::builder::SqliteLogBuilder;
use crate::CurrentTrace;

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
    trace: Option<CurrentTrace>,
    /// What never changes while the log exists; the generation in it may.
    frozen: OnceLock<LogIdentity>,
}

impl SqliteLog {
    /// Starts with the defaults: reading from the same pool, the default [`Profile`], 64 lanes if the log has to be
    /// created.
    ///
    /// `write` is used for the consumers' own writes; events are written through the caller's transactions.
    pub fn builder(write: SqlitePool) -> SqliteLogBuilder {
        let (profile, wake) = (Profile::default(), Wake::default());
        SqliteLogBuilder { write, read: None, profile, lanes: None, wake, trace: None }
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
    /// [`LogErrorKind::Incompatible`] when the tables were made by a newer library or with another number of lanes, or the
    /// connections have other settings than [those of the log](self#settings-of-the-connections),
    /// [`LogErrorKind::ReadOnly`] or [`LogErrorKind::Database`] when they cannot be made,
    /// [`LogErrorKind::Unavailable`] when the file is busy for longer than the timeout. Nothing was changed then.
    ///
    /// # Cancellation
    /// All in one transaction: either everything is done or nothing.
    pub async fn migrate(&self) -> Result<(), LogError> {
        settings::check(&self.inner.write).await?;
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
        claim: Claim,
        lease: Duration,
    ) -> Result<Assignment, LogError> {
        consumers::join(&self.inner, consumer, member, claim, lease).await
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<Renewal, LogError> {
        consumers::renew(&self.inner, fence, lease).await
    }

    async fn release(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        consumers::release(&self.inner, fence, tracks).await
    }

    async fn leave(&self, fence: &Fence) -> Result<(), LogError> {
        consumers::leave(&self.inner, fence).await
    }

    async fn read(&self, tracks: &[Track], limit: usize) -> Result<Vec<Page>, LogError> {
        reader::read(&self.inner, tracks, limit.max(1)).await
    }

    async fn checkpoint(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        consumers::checkpoint(&self.inner, fence, tracks).await
    }

    async fn park(&self, fence: &Fence, events: &[Park]) -> Result<Vec<Parked>, LogError> {
        consumers::park(&self.inner, fence, events).await
    }

    async fn blocked_keys(&self, fence: &Fence) -> Result<Vec<String>, LogError> {
        consumers::blocked_keys(&self.inner, fence).await
    }

    async fn due_parked(&self, fence: &Fence, limit: usize) -> Result<Vec<ParkedEvent>, LogError> {
        consumers::due_parked(&self.inner, fence, limit).await
    }

    async fn redriven(&self, fence: &Fence, events: &[Republished]) -> Result<Vec<Redriven>, LogError> {
        consumers::redriven(&self.inner, fence, events).await
    }

    async fn progress(&self, consumer: &ConsumerName) -> Result<Progress, LogError> {
        consumers::progress(&self.inner, consumer).await
    }

    fn wake(&self) -> &Wake {
        &self.inner.wake
    }
}

#[async_trait]
impl LogAdmin for SqliteLog {
    async fn consumers(&self) -> Result<Vec<ConsumerInfo>, LogError> {
        consumers::consumers(&self.inner).await
    }

    async fn set_paused(&self, consumer: &ConsumerName, paused: bool) -> Result<(), LogError> {
        consumers::set_paused(&self.inner, consumer, paused).await
    }

    async fn drop_consumer(&self, consumer: &ConsumerName) -> Result<(), LogError> {
        consumers::drop_consumer(&self.inner, consumer).await
    }

    async fn parked(
        &self,
        consumer: &ConsumerName,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<ParkedEvent>, LogError> {
        consumers::parked(&self.inner, consumer, after, limit).await
    }

    async fn redrive(&self, consumer: &ConsumerName, which: &Redrive) -> Result<u64, LogError> {
        consumers::redrive(&self.inner, consumer, which).await
    }

    async fn discard(&self, consumer: &ConsumerName, sequence: Sequence, reason: &str) -> Result<bool, LogError> {
        consumers::discard(&self.inner, consumer, sequence, reason).await
    }

    async fn discarded(
        &self,
        consumer: &ConsumerName,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<DiscardedEvent>, LogError> {
        consumers::discarded(&self.inner, consumer, after, limit).await
    }

    async fn event_status(&self, consumer: &ConsumerName, sequence: Sequence) -> Result<Option<EventStatus>, LogError> {
        consumers::event_status(&self.inner, consumer, sequence).await
    }

    async fn tail(&self, after: Option<Sequence>, limit: usize) -> Result<Vec<RecordedEvent>, LogError> {
        reader::tail(&self.inner, after, limit).await
    }

    async fn prune(&self, policy: &RetentionPolicy) -> Result<Pruned, LogError> {
        retention::prune(&self.inner, policy).await
    }

    async fn reanchor(&self) -> Result<Reanchored, LogError> {
        restored::reanchor(&self.inner).await
    }
}
