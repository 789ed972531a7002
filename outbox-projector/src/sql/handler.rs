use std::borrow::Cow;

use async_trait::async_trait;
use outbox_core::{error::BoxError, event::ReceivedEvent};
use sqlx::Transaction;
use uuid::Uuid;

/// Turns events into rows of a read model.
///
/// # Contract
/// Write through `tx` and nowhere else: your rows, the position and the watermarks commit together or not at all.
/// Neither commit nor roll back. Effects outside the database, such as an e-mail, do not belong here: they would happen
/// again with every try.
///
/// The [crate's page](crate) shows a wrong and a right handler side by side.
///
/// # Duplicates and ordering
/// Each event comes once, and those of one key in order: duplicates and late ones were dropped before, by their
/// sequence. So "add one" is as safe as "set to".
///
/// # Cancellation
/// A dropped future rolls the transaction back.
///
/// # Errors
/// [`HandlerErrorKind::Retry`] when the same call may succeed later: it is made again. [`HandlerErrorKind::Reject`]
/// when this event cannot be applied as it is: it is tried again too, more and more seldom, and the projector's status
/// asks for somebody to act. Either way nothing of the step remains.
#[async_trait]
pub trait Handler<DB: sqlx::Database>: Send + Sync {
    /// Applies one event.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn handle(&self, tx: &mut Transaction<'_, DB>, event: &ReceivedEvent) -> Result<Handled, HandlerError>;

    /// Applies all new events of a step in order, and says how many had an effect: the others count as ignored.
    /// By default it calls [`Handler::handle`] for each. Override it to write many rows with one statement; several
    /// events may concern one row, and PostgreSQL refuses an upsert that meets a row twice.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn handle_all(&self, tx: &mut Transaction<'_, DB>, events: &[&ReceivedEvent]) -> Result<usize, HandlerError> {
        let mut done = 0;
        for received in events {
            match self.handle(tx, received).await {
                Ok(Handled::Done) => done += 1,
                Ok(Handled::Ignored) => {}
                Err(error) => return Err(error.at(received.event.id)),
            }
        }
        Ok(done)
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// It had its effect.
    Done,
    /// It is of a type this read model does not know. It will not come again.
    Ignored,
}

/// Why a handler could not apply an event.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct HandlerError {
    kind: HandlerErrorKind,
    message: Cow<'static, str>,
    event: Option<Uuid>,
    source: Option<BoxError>,
}

/// The kinds of [`HandlerError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandlerErrorKind {
    /// Infrastructure: the same event may succeed later.
    Retry,
    /// The event: it will not succeed as it is.
    Reject,
}

impl HandlerError {
    /// An error that passes; `message` says what happened.
    #[must_use]
    pub fn retry(message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: HandlerErrorKind::Retry, message: message.into(), event: None, source: None }
    }

    /// An event that cannot be applied; `reason` says why, and what to do about it.
    #[must_use]
    pub fn reject(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: HandlerErrorKind::Reject, ..Self::retry(reason) }
    }

    /// Names the event at fault; handlers of many events at once do, so that people need not search.
    #[must_use]
    pub fn at(mut self, event: Uuid) -> Self {
        self.event.get_or_insert(event);
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What a caller can match on.
    #[must_use]
    pub fn kind(&self) -> HandlerErrorKind {
        self.kind
    }

    /// The id of the event at fault, when known.
    #[must_use]
    pub fn event(&self) -> Option<Uuid> {
        self.event
    }
}

/// Whatever the database says is tried again.
impl From<sqlx::Error> for HandlerError {
    fn from(error: sqlx::Error) -> Self {
        Self::retry("a statement of the handler failed").with_source(error)
    }
}
