//! Side effects that happen once: an inbox of the events that had theirs, by id.
//!
//! A claim is a row `(consumer, event id)`, written in the transaction of the effect: both commit or neither. So a late
//! duplicate is known by its id, whatever came in between, and a claim that a rollback takes back is free again.
//!
//! * [`Inbox`]: claims in a transaction of your own, wherever a message may come twice: an HTTP request with an
//!   idempotency key, a webhook, a consumer of another kind.
//! * [`InboxProjection`]: a projection that gives each event a transaction of its own: claim, handler, commit.
//!
//! # What it cannot do
//! The database keeps its own rows and the claim together, nothing else. An effect outside of it, such as an e-mail, can
//! happen twice: when the process dies, or the commit fails, after it was made. Hand the event's id to the other side as
//! idempotency key, so that it tells the second time. If it takes none, choose what you prefer: an effect that may happen
//! twice (make it in the handler), or one that may be missing (make it after the commit).
//!
//! # Retention
//! A claim is kept for a while and then removed. **A duplicate that comes later than that has its effect again.** Keep
//! claims for longer than anything can come again: the retention of the topic or log, and the time for which somebody
//! may still rewind or replay it. That goes for dead letters too: one that was replayed has no effect a second time only
//! while its claim is there.
//!
//! The table, `projector_inbox`, comes with the projector's others: `SqlProjection::migrate`.

mod claim;
mod letters;
#[cfg(feature = "postgres")]
mod postgres;
mod projection;
mod retention;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod turns;

pub use claim::{Claimed, Inbox, TryClaimed};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresInbox, PostgresInboxTable};
pub use projection::{InboxProjection, InboxProjectionBuilder};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteInbox, SqliteInboxTable};
pub use store::InboxDatabase;
