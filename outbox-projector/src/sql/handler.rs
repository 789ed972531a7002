use std::{borrow::Cow, time::Duration};

use async_trait::async_trait;
use outbox_core::{
    error::BoxError,
    event::ReceivedEvent,
    projection::{ProjectionError, ProjectionErrorKind},
};
use sqlx::Transaction;
use tracing::Instrument;
use uuid::Uuid;

use super::availability::is_unavailable;

use crate::trace;

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
/// Either way nothing of the step remains. [`HandlerErrorKind::Unavailable`] when no event is at fault: the step is tried
/// again without end. [`HandlerErrorKind::Retry`] when this event may succeed later: it is tried again, a number of
/// times. [`HandlerErrorKind::Reject`] when it cannot be applied as it is. It is then given up as a dead letter, if there
/// is a place for those, see [`SqlProjectionBuilder::dead_letters`](super::SqlProjectionBuilder::dead_letters); otherwise
/// it is tried for ever, more and more seldom, and the projector's status asks for somebody to act.
///
/// `?` on an [`sqlx::Error`] gives the first of these where the database is away, overloaded or asks to be tried again,
/// and the second for everything else it says, such as a broken constraint.
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
            match self.handle(tx, received).instrument(trace::handling(received)).await {
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
    after: Option<Duration>,
    source: Option<BoxError>,
}

/// The kinds of [`HandlerError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandlerErrorKind {
    /// Infrastructure, no fault of any event: tried again without end.
    Unavailable,
    /// This event may succeed later: tries are counted.
    Retry,
    /// The event: it will not succeed as it is.
    Reject,
}

impl HandlerError {
    /// An event that may be applied later; `message` says what happened.
    #[must_use]
    pub fn retry(message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: HandlerErrorKind::Retry, message: message.into(), event: None, after: None, source: None }
    }

    /// Something that every event needs is away; `message` says what.
    #[must_use]
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: HandlerErrorKind::Unavailable, ..Self::retry(message) }
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

    /// Asks for the next try after this time, instead of the projector's own backoff. Nothing else of the partition moves
    /// on meanwhile. Means nothing for [`HandlerErrorKind::Reject`].
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.after = Some(delay);
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

/// What the database says: see *Errors* of [`Handler`].
impl From<sqlx::Error> for HandlerError {
    fn from(error: sqlx::Error) -> Self {
        let message = "a statement of the handler failed";
        let new = if is_unavailable(&error) { Self::unavailable(message) } else { Self::retry(message) };
        new.with_source(error)
    }
}

impl HandlerError {
    /// As a projection says it, about events of these ids.
    pub(crate) fn into_projection_error(self, mut events: impl Iterator<Item = Uuid>) -> ProjectionError {
        let event = self.event.map_or_else(|| "an event of the step".to_owned(), |id| format!("event {id}"));
        let (kind, message) = match self.kind {
            HandlerErrorKind::Unavailable => (ProjectionErrorKind::Unavailable, format!("{event} has to wait")),
            HandlerErrorKind::Retry => (ProjectionErrorKind::Failed, format!("{event} could not be applied")),
            HandlerErrorKind::Reject => (ProjectionErrorKind::Rejected, format!("{event} was rejected by the handler")),
        };
        let index = self.event.filter(|_| kind.blames_an_event()).and_then(|id| events.position(|known| known == id));
        let after = self.after;
        let mut error = ProjectionError::new(kind, message).with_source(self);
        if let Some(index) = index {
            error = error.at(index);
        }
        if let Some(delay) = after {
            error = error.retry_after(delay);
        }
        error
    }
}
