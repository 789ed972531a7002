//! Reading: what a relay or a projection needs of a log.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    error::kinded_error,
    event::{InvalidEvent, LaneCount, LaneSet, LogId, RecordedEvent},
    wake::Wake,
};

/// A log read by named consumers, each with a durable, fenced cursor of its own.
///
/// # Contract
/// A consumer that follows [`Page::next`] from the cursor of its [`Assignment`] sees every committed event of its
/// lanes exactly once along that path, and never an event of a transaction that rolled back or that a crash of the
/// database could still take back. Reading again from the same cursor with the same lanes yields at least the same
/// events, in the same order. Retention is the only thing that removes events.
///
/// # Duplicates
/// None along one path of cursors. A new assignment starts at the last checkpoint, so what was read after it comes again.
///
/// # Ordering
/// Events of one ordering key come in the order their transactions committed, on every path, if their writers were
/// serialised (see [`crate::outbox::Outbox`]). Between keys there is no order.
///
/// # Concurrency
/// Any number of processes may use one log. At most one member's fence is valid for a lane of a consumer at a time;
/// [`EventLog::checkpoint`], [`EventLog::renew`] and [`EventLog::leave`] with any other fence change nothing and say
/// [`LogErrorKind::Fenced`]. `read` is not fenced: what a stale member reads is harmless until it writes.
///
/// # Cancellation
/// Every method may be dropped at any await: either all of its effect happens or none, and repeating it is safe.
///
/// # Errors
/// [`LogErrorKind::Unavailable`] passes: try again later. The other kinds do not pass by themselves.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// What this adapter does differently.
    fn capabilities(&self) -> LogCapabilities;

    /// The log's identity as the database has it.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn identity(&self) -> Result<LogIdentity, LogError>;

    /// Makes a consumer known. `start` counts only the first time; an existing consumer keeps its place.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn register(&self, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError>;

    /// Asks for lanes of a consumer. `None`: other live members own them all; ask again later. `lease` says for how
    /// long the member is safe from a takeover without renewing, by the database's clock.
    ///
    /// # Errors
    /// [`LogErrorKind::UnknownConsumer`] when it was never registered; see the trait's *Errors*.
    async fn join(
        &self,
        consumer: &ConsumerName,
        member: MemberId,
        lease: Duration,
    ) -> Result<Option<Assignment>, LogError>;

    /// Extends the lease by `lease` from now. A lease that ran out is still renewed while nobody took over.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`] when somebody took over; see the trait's *Errors*.
    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<(), LogError>;

    /// Gives the lanes back at once, so that another member need not wait for the lease to end.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`] when somebody took over already; see the trait's *Errors*.
    async fn leave(&self, fence: &Fence) -> Result<(), LogError>;

    /// Reads up to `limit` events of `lanes` after `cursor`. May return fewer, also none, before the end is reached:
    /// only [`Page::caught_up`] tells.
    ///
    /// # Errors
    /// [`LogErrorKind::BadCursor`] when the cursor is not of this log; see the trait's *Errors*.
    async fn read(&self, cursor: &Cursor, lanes: LaneSet, limit: usize) -> Result<Page, LogError>;

    /// Durably records that everything up to `cursor` is done; the next assignment starts there.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`] when somebody took over: nothing was recorded. See the trait's *Errors*.
    async fn checkpoint(&self, fence: &Fence, cursor: &Cursor) -> Result<(), LogError>;

    /// The last checkpointed cursor of a consumer, owned or not, and the newest position of the log, for showing lag.
    ///
    /// # Errors
    /// [`LogErrorKind::UnknownConsumer`] when it was never registered; see the trait's *Errors*.
    async fn progress(&self, consumer: &ConsumerName) -> Result<Progress, LogError>;

    /// The bell that [`crate::outbox::Receipt::committed`] rings for this log in this process.
    fn wake(&self) -> &Wake;
}

/// Where adapters may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogCapabilities {
    /// Two transactions can be open and append at the same time. Where they cannot, cases about it are skipped.
    pub concurrent_writers: bool,
    /// Events survive the process.
    pub durable: bool,
}

impl LogCapabilities {
    /// Concurrent writers, durable.
    #[must_use]
    pub fn full() -> Self {
        Self { concurrent_writers: true, durable: true }
    }

    /// Sets [`LogCapabilities::concurrent_writers`].
    #[must_use]
    pub fn with_concurrent_writers(mut self, yes: bool) -> Self {
        self.concurrent_writers = yes;
        self
    }

    /// Sets [`LogCapabilities::durable`].
    #[must_use]
    pub fn with_durable(mut self, yes: bool) -> Self {
        self.durable = yes;
        self
    }
}

/// What a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    /// Its id.
    pub id: LogId,
    /// How many lanes it has, for ever.
    pub lanes: LaneCount,
    /// How often it was re-anchored.
    pub generation: u16,
}

/// Where a consumer begins that was not known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StartAt {
    /// At the first event the log still has.
    #[default]
    Beginning,
    /// After what is committed at the time of registration.
    End,
}

/// The name of a consumer: 1 to 100 of `a-z`, `0-9`, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerName(Arc<str>);

impl ConsumerName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`LogErrorKind::BadName`] when the text is not of the form above.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, LogError> {
        let text = text.as_ref();
        let good = (1..=100).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
        if good {
            Ok(Self(text.into()))
        } else {
            let message = format!("consumer name {text:?} is not 1 to 100 of a-z, 0-9, '-', '_' and '.'");
            Err(LogError::new(LogErrorKind::BadName, message))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One running relay or projection, for as long as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemberId(pub Uuid);

impl MemberId {
    /// A fresh identity.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }
}

/// Proof of ownership, carried by every write of a member. The epoch decides, not the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Of which consumer.
    pub consumer: ConsumerName,
    /// Who.
    pub member: MemberId,
    /// Since which assignment. Every takeover raises it.
    pub epoch: u64,
}

/// Lanes given to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// To be carried by its writes.
    pub fence: Fence,
    /// The lanes it owns.
    pub lanes: LaneSet,
    /// Where to read on.
    pub cursor: Cursor,
}

/// A place in a log, in a form only its adapter understands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(Arc<str>);

impl Cursor {
    /// For adapters, and for projections that keep a cursor in their own store.
    #[must_use]
    pub fn from_text(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The adapter's form.
    #[must_use]
    pub fn as_text(&self) -> &str {
        &self.0
    }
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The events, those of one key in commit order.
    pub events: Vec<RecordedEvent>,
    /// Where to read on. Differs from the cursor given also when no event was found but the reader got further.
    pub next: Cursor,
    /// Nothing more was committed when the read began.
    pub caught_up: bool,
}

/// How far a consumer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The last checkpoint, or the place where the consumer was registered.
    pub cursor: Cursor,
    /// The highest position that the cursor has passed.
    pub position: u64,
    /// The highest position issued, committed or not; 0 when none was.
    pub head: u64,
}

kinded_error! {
    /// Why a log could not serve.
    LogError, LogErrorKind
}

/// The kinds of [`LogError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogErrorKind {
    /// The database cannot be reached or is overloaded: try again later.
    Unavailable,
    /// Another member owns the lanes now: nothing was written. Drop all state and join again.
    Fenced,
    /// The log's tables are missing: migrate first.
    NotMigrated,
    /// The log was made by a newer library or with other settings.
    Incompatible,
    /// The server cannot serve readers, such as a standby.
    ReadOnly,
    /// The cursor is not of this log, or lies beyond what the database knows, as after a restore.
    BadCursor,
    /// The consumer was never registered.
    UnknownConsumer,
    /// A name is not well formed.
    BadName,
    /// A stored event cannot be read back. The log was changed from outside.
    Corrupt,
    /// The database refused; the source says why.
    Database,
}

impl LogErrorKind {
    /// Whether the same call may succeed later without anybody doing anything.
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

impl From<InvalidEvent> for LogError {
    fn from(invalid: InvalidEvent) -> Self {
        Self::new(LogErrorKind::Corrupt, "a stored event cannot be read back").with_source(invalid)
    }
}
