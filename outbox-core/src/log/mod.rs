//! Reading: what a relay or a projection needs of a log.

mod admin;
pub mod balance;
mod consumer;
mod parking;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

pub use admin::{
    ConsumerInfo, DiscardedEvent, EventStatus, LogAdmin, MemberInfo, Pruned, Reanchored, Redrive, RetentionPolicy,
};
pub use consumer::{Assignment, Claim, ConsumerName, Fence, MemberId, Renewal, StartAt, Track, lanes_of};
pub use parking::{DUE_OF_A_KEY, Park, ParkFailure, ParkState, Parked, ParkedEvent, Redriven, Republished};

use crate::{
    error::kinded_error,
    event::{InvalidEvent, LaneCount, LogId, RecordedEvent},
    wake::Wake,
};

/// A log read by named consumers, each with durable, fenced cursors of its own.
///
/// A consumer is one or many *members*: running relays or projections. Each owns some of the log's lanes, and reads the
/// lanes that stand at one place together, as a [`Track`].
///
/// # Contract
/// Whoever follows [`Page::next`] from the cursor of a track sees every committed event of its lanes exactly once along
/// that path, and never an event of a transaction that rolled back or that a crash of the database could still take
/// back. Reading again from the same cursor with the same lanes yields at least the same events, in the same order.
/// Retention is the only thing that removes events.
///
/// # Duplicates
/// None along one path of cursors. Lanes that change hands start at their last checkpoint, so what was read after it
/// comes again.
///
/// # Ordering
/// Events of one ordering key come in the order their transactions committed, on every path, if their writers were
/// serialised (see [`crate::outbox::Outbox`]). Between keys there is no order.
///
/// # Concurrency
/// Any number of processes may use one log. At any time at most one member owns a lane of a consumer. Lanes are only
/// taken from a member that lives by itself giving them back; one whose lease ended loses all of them at once, and with
/// them its membership. Every write of a member carries its [`Fence`]: when the membership is over, or the lanes it
/// writes about are not its own, nothing is changed and the answer is [`LogErrorKind::Fenced`]. `read` is not fenced:
/// what a stale member reads is harmless until it writes.
///
/// # Cancellation
/// Every method may be dropped at any await: either all of its effect happens or none, and repeating it is safe. A
/// member that does not know whether lanes were given to it or taken back finds itself fenced at the next write, and
/// joins again.
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

    /// Becomes a member of a consumer, and gets lanes if some are free: those of nobody, and those of members whose lease
    /// ended, who are expelled. `lease` says for how long the member is safe from that without renewing, by the
    /// database's clock. A member that joins again begins anew, with what it owned before among the lanes it may get.
    /// Epochs only rise, also over [`LogAdmin::drop_consumer`] and a new registration.
    ///
    /// # Errors
    /// [`LogErrorKind::UnknownConsumer`] when it was never registered; [`LogErrorKind::BadCursor`] when a place of the
    /// consumer is not one of this server, as after a restore; see the trait's *Errors*.
    async fn join(
        &self,
        consumer: &ConsumerName,
        member: MemberId,
        claim: Claim,
        lease: Duration,
    ) -> Result<Assignment, LogError>;

    /// Extends the lease by `lease` from now, takes free lanes up to the member's share, and says whether it has too
    /// many. A lease that ran out is still renewed while nobody expelled the member.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`]; see the trait's *Errors*.
    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<Renewal, LogError>;

    /// Records the places of these lanes, as [`EventLog::checkpoint`] does, and gives them back for others to take.
    /// Nothing of them may be under way any more: whoever takes them starts at once.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`], also when a lane is not the member's; see the trait's *Errors*.
    async fn release(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError>;

    /// Gives all lanes back at their last checkpoint and ends the membership, so that others need not wait for the lease
    /// to end.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`] when it was over already; see the trait's *Errors*.
    async fn leave(&self, fence: &Fence) -> Result<(), LogError>;

    /// Reads up to `limit` events of each track after its cursor, and returns a page for each, in the same order. May
    /// return fewer, also none, before the end is reached: only [`Page::caught_up`] tells. Tracks that reach the end of
    /// the log in one call get the same [`Page::next`], and can be read as one from then on.
    ///
    /// # Errors
    /// [`LogErrorKind::BadCursor`] when a cursor is not of this log; see the trait's *Errors*.
    async fn read(&self, tracks: &[Track], limit: usize) -> Result<Vec<Page>, LogError>;

    /// Durably records, for every lane of the member, that everything up to the cursor of its track is done or parked;
    /// whoever owns the lane next starts there. The tracks name each lane of the member exactly once.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`], also when the lanes are not exactly the member's: nothing was recorded. See the trait's
    /// *Errors*.
    async fn checkpoint(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError>;

    /// Sets events aside, all or none, so that the checkpoint can pass them. One with a failure blocks its key, or is
    /// already parked and gets the new failure. One without is set aside only if its key is blocked, by what was parked
    /// before or by an event in front of it in this call. The answers are in the order of the events. An event that is
    /// parked already stays parked; one that an operator discarded stays discarded, and is answered with
    /// [`Parked::Yes`].
    ///
    /// A failure ends the attempt at its key that [`EventLog::due_parked`] began, and with it every request to redrive the
    /// key that was made before that. A request made since then, or while no attempt was under way, stands: the key is
    /// still due.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`], also when a lane is not the member's; [`LogErrorKind::Corrupt`] when the log has no such
    /// event; see the trait's *Errors*.
    async fn park(&self, fence: &Fence, events: &[Park]) -> Result<Vec<Parked>, LogError>;

    /// The blocked keys of the member's lanes, as [`Event::lane_key`](crate::event::Event::lane_key) writes them. To be
    /// asked for when lanes were given; from then on only the member itself blocks and frees their keys, except that
    /// an operator who discards the last parked event of a key frees it too.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`]; see the trait's *Errors*.
    async fn blocked_keys(&self, fence: &Fence) -> Result<Vec<String>, LogError>;

    /// Parked events of the member's lanes to publish now, at most about `limit`: of each key that is due, because its
    /// time has come or somebody asked, the first ones in order, at most [`DUE_OF_A_KEY`]. They stay parked until
    /// [`EventLog::redriven`], and stay due until then or until they are parked again. The first answer with events of a
    /// key begins an attempt at the key, which ends when one of its events is parked with a failure or the key is free;
    /// answers in between are about the same attempt, whoever asks.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`]; see the trait's *Errors*.
    async fn due_parked(&self, fence: &Fence, limit: usize) -> Result<Vec<ParkedEvent>, LogError>;

    /// Parked events were published: they are no longer parked. A key of which none is left is free in the same
    /// transaction. The answers say so of each event's key, in the order of the events, also for an event that was not
    /// parked any more because somebody discarded it.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`], also when a lane is not the member's; see the trait's *Errors*.
    async fn redriven(&self, fence: &Fence, events: &[Republished]) -> Result<Vec<Redriven>, LogError>;

    /// How far the last checkpoints of a consumer are, owned or not, and the newest position of the log, for showing lag.
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
    /// The places of all lanes at their last checkpoints, or where the consumer was registered: each lane in exactly one
    /// track, and no two tracks with the same cursor.
    pub tracks: Vec<Track>,
    /// The highest position that every lane has passed.
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
    /// The membership is over, or the lanes are not the member's: nothing was written. Drop all state and join again.
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
    /// A name or a reason is not well formed.
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
