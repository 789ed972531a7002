use bytes::Bytes;
use outbox_core::{error::BoxError, event::ReceivedEvent};

/// A document's new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which document.
    pub id: String,
    /// The whole document as the store takes it; `None`: it is deleted.
    pub document: Option<Bytes>,
}

/// Says what an event means to a store of documents. A function or closure of the same shape is one too.
///
/// # Contract
/// The answer depends on the event alone, and holds the *whole* document: of several changes of one document only the
/// newest may be written. Nothing is read from elsewhere and nothing has an effect.
///
/// # Ordering
/// What is newer is told by the event's sequence, which orders the events of one
/// [lane key](outbox_core::event::Event::lane_key) only, and those of one log. So all events of one document have to
/// share a key: either the document is about one aggregate, or its events carry one ordering key. And where a topic may
/// carry events of several logs, as when it outlived a database, answer only to those of one:
/// [`ReceivedEvent::origin`] says which it is.
///
/// # Errors
/// An error rejects the event, for good: it becomes a dead letter with this reason, or its partition waits. An event that
/// does not say where it stands in its log is rejected by the projection itself, unless it does not concern the store.
pub trait Documents: Send + Sync {
    /// The change that the event makes; `Ok(None)`: it does not concern the store.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    fn change(&self, event: &ReceivedEvent) -> Result<Option<Change>, BoxError>;
}

impl<F> Documents for F
where
    F: Fn(&ReceivedEvent) -> Result<Option<Change>, BoxError> + Send + Sync,
{
    fn change(&self, event: &ReceivedEvent) -> Result<Option<Change>, BoxError> {
        self(event)
    }
}

impl Change {
    /// The document is this from now on.
    #[must_use]
    pub fn store(id: impl Into<String>, document: impl Into<Bytes>) -> Self {
        Self { id: id.into(), document: Some(document.into()) }
    }

    /// The document is gone from now on.
    #[must_use]
    pub fn delete(id: impl Into<String>) -> Self {
        Self { id: id.into(), document: None }
    }
}
