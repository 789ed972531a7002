//! Writing: events into the caller's own transaction.

use async_trait::async_trait;

use crate::{
    error::kinded_error,
    event::{InvalidEvent, NewEvent},
    wake::Wake,
};

/// Writes events into the transaction that causes them.
///
/// # Contract
/// `append` adds the events to the caller's own open transaction: they exist if and only if that transaction commits.
/// It neither commits nor rolls back. All events are added or none.
///
/// # Duplicates
/// `append` does not look for duplicates: appending an event twice records it twice.
///
/// # Not ours
/// An outbox is not an event store. `append` does not know the version of an aggregate and checks no *expected* version:
/// whether the caller changed what it had read is decided by the caller's own rows, as with
/// `UPDATE … WHERE version = $1`, before it appends.
///
/// # Ordering
/// Events of one ordering key are recorded in the order of commit, and those of one call in the order of the slice.
/// Events that are [unordered](crate::event::Event::unordered) promise nothing of the kind.
/// An adapter keeps this by making a second writer of the same key wait until the first transaction ends, or by
/// assigning positions at commit.
///
/// # Concurrency
/// Writers of different keys do not wait for each other, but for what the database itself serialises.
/// Keys are locked in one global order within a call; two transactions that append the same keys in *several* calls in
/// opposite orders can deadlock, and the database then fails one of them. Append once, with all events of the
/// transaction, and that cannot happen.
///
/// # Cancellation
/// Dropping the future leaves the transaction in a state that only a rollback ends well.
///
/// # Errors
/// [`AppendErrorKind::Invalid`] is found before anything is sent: the transaction stays usable. After the other kinds
/// roll back.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// The caller's open transaction.
    type Tx<'t>: Send;

    /// Adds events to `tx`. An empty slice does nothing.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn append(&self, tx: &mut Self::Tx<'_>, events: &[NewEvent]) -> Result<Receipt, AppendError>;
}

/// What an append did. It is not yet committed.
#[derive(Debug, Clone)]
#[must_use = "after the commit, call `committed` so that relays in this process need not wait for their next poll"]
pub struct Receipt {
    events: usize,
    wake: Wake,
    /// Tells other processes, where the adapter can.
    abroad: Option<Wake>,
}

impl Receipt {
    /// For adapters: a receipt for so many events, that will ring this bell.
    pub fn new(events: usize, wake: Wake) -> Self {
        Self { events, wake, abroad: None }
    }

    /// For adapters: rings this bell too, behind which somebody passes the word on to other processes. It is apart from
    /// the first one so that word *from* another process is not passed on again.
    pub fn and_abroad(mut self, bell: Option<Wake>) -> Self {
        self.abroad = bell;
        self
    }

    /// How many events were appended.
    #[must_use]
    pub fn events(&self) -> usize {
        self.events
    }

    /// Tells relays and projections in this process, and in others where the log is set up so, that the transaction was
    /// committed. Call it *after* the commit.
    /// Only latency depends on it: without it events are found by the next poll, at most a second later by default.
    pub fn committed(self) {
        if self.events > 0 {
            self.wake.ring();
            if let Some(abroad) = self.abroad {
                abroad.ring();
            }
        }
    }
}

kinded_error! {
    /// Why events could not be appended.
    AppendError, AppendErrorKind
}

/// The kinds of [`AppendError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AppendErrorKind {
    /// An event cannot be published as configured; [`AppendError::invalid`] names the field. The transaction is usable.
    Invalid,
    /// The log's tables are missing: migrate first.
    NotMigrated,
    /// The log was made by a newer library, or with other settings, such as another number of lanes.
    Incompatible,
    /// The database refused or could not be reached; the source says why. Roll back.
    Database,
}

impl AppendError {
    /// The event that was refused, when the kind is [`AppendErrorKind::Invalid`].
    #[must_use]
    pub fn invalid(&self) -> Option<&InvalidEvent> {
        std::error::Error::source(self)?.downcast_ref()
    }
}

impl From<InvalidEvent> for AppendError {
    fn from(invalid: InvalidEvent) -> Self {
        Self::new(AppendErrorKind::Invalid, format!("event refused: {invalid}")).with_source(invalid)
    }
}
