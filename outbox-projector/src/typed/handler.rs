use async_trait::async_trait;
use outbox_core::event::ReceivedEvent;
use serde::de::DeserializeOwned;
use sqlx::Transaction;

use super::decode;
use crate::sql::{Handled, Handler, HandlerError};

/// A [`Handler`] of events that are decoded already. The same contract holds; see the [module](super) for the outcomes.
#[async_trait]
pub trait TypedHandler<DB: sqlx::Database>: Send + Sync {
    /// The enum. Its variants are the event types that this handler knows.
    type Event: DeserializeOwned + Send;

    /// Applies one event. `received` has what the payload does not: id, sequence, aggregate, headers.
    ///
    /// # Errors
    /// As [`Handler::handle`].
    async fn handle(
        &self,
        tx: &mut Transaction<'_, DB>,
        event: Self::Event,
        received: &ReceivedEvent,
    ) -> Result<Handled, HandlerError>;
}

/// Makes a typed handler one that the projections take.
#[must_use]
pub fn typed<H>(handler: H) -> Typed<H> {
    Typed(handler)
}

/// See [`typed`].
#[derive(Debug, Clone, Copy)]
pub struct Typed<H>(H);

#[async_trait]
impl<DB: sqlx::Database, H: TypedHandler<DB>> Handler<DB> for Typed<H> {
    async fn handle(&self, tx: &mut Transaction<'_, DB>, received: &ReceivedEvent) -> Result<Handled, HandlerError> {
        match decode(&received.event) {
            Ok(Some(event)) => self.0.handle(tx, event, received).await,
            Ok(None) => {
                let event = &received.event;
                tracing::debug!(id = %event.id, event_type = event.event_type.as_str(), "an event of no known type");
                Ok(Handled::Ignored)
            }
            Err(broken) => Err(HandlerError::reject("the event cannot be decoded").with_source(broken)),
        }
    }
}
