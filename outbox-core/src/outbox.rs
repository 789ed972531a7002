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
/// # Ordering
/// Events of one ordering key are recorded in the order of commit, and those of one call in the order of the slice.
/// An adapter keeps this by making a second writer of the same key wait until the first transaction ends, or by
/// assigning positions at commit.
///
/// # Concurrency
/// Writers of different keys do not wait for each other, but for what the database itself serialises.
/// Keys are locked in one global order within a call; two transactions that append the same keys in *several* calls in
/// opposite orders can deadlock, and the database then fails one of them.
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
}

impl Receipt {
    /// For adapters: a receipt for so many events, that will ring this bell.
    pub fn new(events: usize, wake: Wake) -> Self {
        Self { events, wake }
    }

    /// How many events were appended.
    #[must_use]
    pub fn events(&self) -> usize {
        self.events
    }

    /// Tells relays and projections in this process that the transaction was committed. Call it *after* the commit.
    /// Only latency depends on it: without it events are found by the next poll, at most a second later by default.
    pub fn committed(self) {
        if self.events > 0 {
            self.wake.ring();
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
