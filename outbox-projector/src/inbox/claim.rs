use std::{sync::Arc, time::Duration};

use sqlx::{Pool, Transaction};
use uuid::Uuid;

use super::InboxDatabase;
use crate::sql::ProjectionName;

/// The claims of one consumer. Cloning yields another handle on the same ones.
///
/// ```no_run
/// # use outbox_projector::{inbox::{Claimed, PostgresInbox}, sql::ProjectionName};
/// # async fn deliver(pool: sqlx::PgPool, webhook_id: uuid::Uuid) -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = PostgresInbox::new(pool.clone(), ProjectionName::parse("payment-webhook")?);
/// let mut tx = pool.begin().await?;
/// if inbox.claim(&mut tx, webhook_id).await? == Claimed::New {
///     sqlx::query("UPDATE booking SET paid = true WHERE id = 7").execute(&mut *tx).await?;
///     tx.commit().await?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct Inbox<DB: InboxDatabase> {
    pub(super) pool: Pool<DB>,
    pub(super) consumer: ProjectionName,
    pub(super) table: Arc<DB::Table>,
}

/// Whether an event is to have its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claimed {
    /// It is claimed by this transaction: make the effect in it, and commit.
    New,
    /// It was claimed before, by a transaction that committed or by this one: do nothing.
    Seen,
}

/// The answer to a claim that does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TryClaimed {
    /// As [`Claimed::New`].
    New,
    /// As [`Claimed::Seen`].
    Seen,
    /// Another transaction is at it. It may still roll back: do not report the event as done, let it come again.
    Busy,
}

impl<DB: InboxDatabase> Inbox<DB> {
    /// The claims of this consumer in the database behind `pool`. Nothing is sent to it.
    #[must_use]
    pub fn new(pool: Pool<DB>, consumer: ProjectionName) -> Self {
        Self { pool, consumer, table: Arc::default() }
    }

    /// Claims an event in the caller's open transaction. If another transaction has claimed it and is still open, this
    /// **waits** for its end: [`Claimed::Seen`] if it commits, [`Claimed::New`] if it rolls back.
    ///
    /// PostgreSQL: in a transaction above `READ COMMITTED`, a wait that ends with a commit is a serialization failure
    /// (SQLSTATE 40001): begin again. Each claim takes one lock of the server's lock table until the transaction ends, so
    /// do not claim many thousands in one. Claims of several events in one transaction: in the same order everywhere, or
    /// two may deadlock.
    ///
    /// SQLite has one writer at a time: who waits is the whole transaction, where it begins `IMMEDIATE`.
    ///
    /// # Errors
    /// [`sqlx::Error`] of the one statement; on PostgreSQL the transaction is broken then. Dropping the future leaves the
    /// transaction with or without the claim: roll it back.
    pub async fn claim(&self, tx: &mut Transaction<'_, DB>, event_id: Uuid) -> Result<Claimed, sqlx::Error> {
        <DB as super::store::Store>::claim(&self.table, tx, self.consumer.as_str(), event_id).await
    }

    /// Claims an event in the caller's open transaction. If another transaction has claimed it and is still open, this
    /// **skips** it at once: [`TryClaimed::Busy`].
    ///
    /// On SQLite it never is: there is one writer at a time, and the wait is over when the transaction has begun.
    ///
    /// # Errors
    /// As [`Inbox::claim`].
    pub async fn try_claim(&self, tx: &mut Transaction<'_, DB>, event_id: Uuid) -> Result<TryClaimed, sqlx::Error> {
        DB::try_claim(&self.table, tx, self.consumer.as_str(), event_id).await
    }

    /// Removes this consumer's oldest claims that are older than this, at most `limit` of them, and says how many; fewer
    /// than `limit`: none are left. One statement in a transaction of its own. More than 100 years count as 100.
    ///
    /// A duplicate of an event whose claim was removed has its effect again: see the [module](super).
    ///
    /// # Errors
    /// [`sqlx::Error`] when the database cannot be reached or refuses; nothing was removed then.
    pub async fn prune(&self, older_than: Duration, limit: u32) -> Result<u64, sqlx::Error> {
        DB::prune(&self.table, &self.pool, self.consumer.as_str(), older_than.min(LONGEST), limit).await
    }
}

/// Dates further back than the databases' calendars reach are refused by them.
const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);

impl<DB: InboxDatabase> Clone for Inbox<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), consumer: self.consumer.clone(), table: self.table.clone() }
    }
}
