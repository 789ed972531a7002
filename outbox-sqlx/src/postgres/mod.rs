//! The log in PostgreSQL 15 or later.
//!
//! [`PostgresLog`] is both halves: [`Outbox`] for writers, over `sqlx::Transaction<'_, Postgres>`, and [`EventLog`] for
//! relays and projections.
//!
//! # Writing
//!
//! `append` is one statement, however many events there are (more only beyond 16 MiB of payload). Before it draws
//! positions it takes an advisory lock of the transaction on each ordering key, so that of two writers of one key the
//! second waits for the end of the first: positions of a key are in the order of commit. [`PostgresLog::already_locked`]
//! is for callers who have serialised the writers themselves.
//!
//! An append of more than 512 different keys locks whole lanes instead, so that it cannot exhaust the server's lock
//! table; it waits for all writers of these lanes, and they for it.
//!
//! Within one call locks are taken in one global order, so transactions that append *once* never deadlock through the
//! log. Transactions that append in several calls can, when they touch the same keys in opposite orders, or when one of
//! their calls is bulk. PostgreSQL then fails one of them after `deadlock_timeout` (1 s by default) with SQLSTATE
//! `40P01`: roll back and try again. Collect the events and append once, or call [`PostgresLog::lock_lanes`] first.
//!
//! Events that are [unordered](outbox_core::event::NewEvent::unordered) take no lock. SQL and other drivers write through
//! a function of the database: see [`PostgresLog::append_sql`].
//!
//! # Reading
//!
//! A read sees exactly what is newly committed, whatever the order in which transactions began, wrote and committed,
//! without waiting for open ones: see [`EventLog`]. It writes nothing, takes no lock and keeps no state in its session,
//! so it works behind a pooler of transactions that knows prepared statements, as PgBouncer does from 1.21. It must talk
//! to the primary. An event is handed out only when a crash of the server cannot take it back, even if its writer did not
//! wait for that (`synchronous_commit = off`).
//!
//! A look at a log where nothing is new is one statement outside any transaction, in one round trip, for all lanes of a
//! relay. A pool that tests its connections before it lends them, as sqlx's does by default, adds a round trip to each
//! look; `test_before_acquire(false)` saves that. When something is new, the page follows in a transaction of its own; it
//! goes on to its end, unheard, if the read is dropped meanwhile.
//!
//! # Retention
//!
//! Nothing is removed but by [`LogAdmin::prune`](outbox_core::log::LogAdmin::prune), which somebody has to call now and
//! then: [`Pruner`](outbox_core::retention::Pruner) does. It works in short transactions and takes no lock that a writer, a
//! reader or a checkpoint waits for; registering a consumer waits for the step under way.
//!
//! # Rights
//!
//! Writers need `SELECT` on `outbox_log` and `INSERT` on `outbox_event`; consumers `SELECT` on all tables and the
//! position sequence, `INSERT`, `UPDATE` and `DELETE` on the tables of consumers, members, lanes, checkpoints, parked,
//! blocked and discarded events, and `EXECUTE` on the functions of the schema, which everybody has by default. Who drops a
//! consumer or re-anchors the log also needs `UPDATE` on `outbox_log`; re-anchoring is best done by the owner. Who prunes
//! needs `SELECT` on all tables and the position sequence, `DELETE` on `outbox_event` and `outbox_checkpoint`, `UPDATE` on
//! `outbox_retention`, and for a [ring](PostgresLogBuilder::ring) `TRUNCATE` on its leaves.

mod admin;
mod append;
mod consumers;
mod cursor;
mod doctor;
mod error;
mod notify;
mod page;
mod reader;
mod retention;
mod schema;
mod transaction;
mod writing;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    event::{LaneCount, NewEvent},
    log::{
        Assignment, Claim, ConsumerName, EventLog, Fence, LogCapabilities, LogError, LogIdentity, MemberId, Page, Park,
        Parked, ParkedEvent, Progress, Redriven, Renewal, Republished, StartAt, Track,
    },
    outbox::{AppendError, Outbox, Receipt},
    profile::Profile,
    wake::Wake,
};
use sqlx::{PgPool, Postgres, Transaction};

pub use notify::{Listening, NotifySettings};
pub use schema::SchemaName;

use crate::CurrentTrace;

/// A log in a PostgreSQL database. Cloning is cheap.
///
/// Several logs may live in one database, each in a schema of its own.
#[derive(Debug, Clone)]
pub struct PostgresLog {
    inner: Arc<Inner>,
    serialise: bool,
}

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    schema: SchemaName,
    profile: Profile,
    lanes: Option<LaneCount>,
    wake: Wake,
    trace: Option<CurrentTrace>,
    notifier: Option<notify::Notifier>,
    append: append::Sql,
    reader: reader::Sql,
    consumers: consumers::Sql,
    retention: retention::Sql,
    /// Whether a ring was asked for.
    ring: bool,
    /// What never changes while the log exists; the generation in it may.
    frozen: OnceLock<LogIdentity>,
}

impl PostgresLog {
    /// Starts with the defaults: schema `outbox`, the default [`Profile`], 64 lanes if the log has to be created.
    ///
    /// The pool is used for reading and for the consumers' own writes; events are written through the caller's
    /// transactions, which may come from another pool.
    pub fn builder(pool: PgPool) -> PostgresLogBuilder {
        let (schema, profile, wake) = (SchemaName::default(), Profile::default(), Wake::default());
        PostgresLogBuilder { pool, schema, profile, lanes: None, ring: false, wake, trace: None, notify: None }
    }

    /// Creates the schema and the tables, or brings them up to date; does nothing when they are. Safe to call from
    /// several processes at once. Its notes are in `<schema>._outbox_migrations`: other users' migrations are not
    /// touched.
    ///
    /// # Errors
    /// [`Incompatible`](outbox_core::log::LogErrorKind::Incompatible) when the tables were made by a newer library or
    /// with another number of lanes; [`Database`](outbox_core::log::LogErrorKind::Database) when the role may not
    /// create them; [`Unavailable`](outbox_core::log::LogErrorKind::Unavailable). Nothing was changed then.
    ///
    /// # Cancellation
    /// All in one transaction: either everything is done or nothing.
    pub async fn migrate(&self) -> Result<(), LogError> {
        use outbox_core::log::LogErrorKind::NotMigrated;
        // A role without the right to create anything can still start the application.
        match self.identity().await {
            Err(error) if error.kind() == NotMigrated => {}
            Ok(_) => return retention::same_kind(&self.inner).await,
            Err(error) => return Err(error),
        }
        let Inner { pool, schema, lanes, ring, .. } = &*self.inner;
        schema::migrate(pool, schema, lanes.unwrap_or_default(), *ring).await?;
        self.identity().await?;
        retention::same_kind(&self.inner).await
    }

    /// What [`PostgresLog::migrate`] would run on an empty database, as a script for another tool. `migrate` recognises
    /// a log that was made this way. Run it in one transaction.
    #[must_use]
    pub fn migration_sql(schema: &SchemaName, lanes: LaneCount) -> String {
        schema::migration_sql(schema, lanes, false)
    }

    /// As [`PostgresLog::migration_sql`], for a log that is a [ring](PostgresLogBuilder::ring).
    #[must_use]
    pub fn ring_migration_sql(schema: &SchemaName, lanes: LaneCount) -> String {
        schema::migration_sql(schema, lanes, true)
    }

    /// The same log, with an `append` that takes no locks: for callers who lock the aggregate's row *before* they
    /// append, as `UPDATE` and `SELECT … FOR UPDATE` do, in every transaction that appends events of that aggregate.
    ///
    /// Without such a lock events of one aggregate can be read in another order than that of their sequences. None is
    /// lost on the way to a consumer, but one that keeps only what is newer than the last will drop some.
    #[must_use]
    pub fn already_locked(&self) -> Self {
        Self { inner: self.inner.clone(), serialise: false }
    }

    /// The schema that holds the tables.
    #[must_use]
    pub fn schema(&self) -> &SchemaName {
        &self.inner.schema
    }
}

/// Settings of a [`PostgresLog`].
#[derive(Debug, Clone)]
#[must_use = "call `open` or `build`"]
pub struct PostgresLogBuilder {
    pool: PgPool,
    schema: SchemaName,
    profile: Profile,
    lanes: Option<LaneCount>,
    ring: bool,
    wake: Wake,
    trace: Option<CurrentTrace>,
    notify: Option<NotifySettings>,
}

impl PostgresLogBuilder {
    /// The schema of the tables. Default: `outbox`.
    pub fn schema(mut self, schema: SchemaName) -> Self {
        self.schema = schema;
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

    /// Creates the log as a ring: its events lie in 16 leaves, a million (2^20) positions in each and then the next leaf,
    /// round and round. Retention empties a leaf at once when all of it may go, instead of deleting row by row: no dead
    /// rows, nothing for vacuum to do. For logs that pass a million events several times a day.
    ///
    /// It pays when the policy keeps more than a million events, or hours of them: rows of the window that is being
    /// written are deleted one by one as in a plain table, and a leaf goes only as a whole, so up to a million events
    /// are kept longer than asked for. Nothing has to be done in time: when the writers come round to a leaf that was
    /// not emptied, it takes them in all the same, and its old events are deleted one by one. Reading costs some 50 more
    /// buffers a page.
    ///
    /// Asking for a ring when the log exists as a plain table is an error; without this call it is taken as it is.
    pub fn ring(mut self) -> Self {
        self.ring = true;
        self
    }

    /// Shares a bell with other handles on the same log. Default: one of its own.
    pub fn wake(mut self, wake: Wake) -> Self {
        self.wake = wake;
        self
    }

    /// The log, without asking the database: for a log that may have to be migrated first.
    #[must_use]
    pub fn build(self) -> PostgresLog {
        let Self { pool, schema, profile, lanes, ring, wake, trace, notify } = self;
        let inner = Inner {
            append: append::Sql::new(&schema),
            reader: reader::Sql::new(&schema),
            consumers: consumers::Sql::new(&schema),
            retention: retention::Sql::new(&schema),
            ring,
            notifier: notify.map(|settings| notify::Notifier::new(&schema, settings)),
            pool,
            schema,
            profile,
            lanes,
            wake,
            trace,
            frozen: OnceLock::new(),
        };
        PostgresLog { inner: Arc::new(inner), serialise: true }
    }

    /// The log, after [`PostgresLog::migrate`].
    ///
    /// # Errors
    /// See [`PostgresLog::migrate`].
    pub async fn migrate(self) -> Result<PostgresLog, LogError> {
        let log = self.build();
        log.migrate().await?;
        Ok(log)
    }

    /// The log, after checking that it is there and as expected.
    ///
    /// # Errors
    /// [`NotMigrated`](outbox_core::log::LogErrorKind::NotMigrated) when the tables are missing or old,
    /// [`Incompatible`](outbox_core::log::LogErrorKind::Incompatible) when they are of a newer version or another
    /// number of lanes was asked for, and what [`EventLog`] says about databases that cannot be reached.
    pub async fn open(self) -> Result<PostgresLog, LogError> {
        let log = self.build();
        log.identity().await?;
        retention::same_kind(&log.inner).await?;
        Ok(log)
    }
}

#[async_trait]
impl Outbox for PostgresLog {
    type Tx<'t> = Transaction<'t, Postgres>;

    async fn append(&self, tx: &mut Self::Tx<'_>, events: &[NewEvent]) -> Result<Receipt, AppendError> {
        append::append(&self.inner, tx, events, self.serialise).await
    }
}

#[async_trait]
impl EventLog for PostgresLog {
    fn capabilities(&self) -> LogCapabilities {
        LogCapabilities::full()
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        let mut conn = self.inner.pool.acquire().await.map_err(error::log)?;
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
