//! Events as an enum of your own: the event's type is the variant, the payload its content.
//!
//! ```
//! use outbox_core::event::NewEvent;
//! use outbox_projector::typed::decode;
//! use serde::Deserialize;
//!
//! #[derive(Debug, PartialEq, Deserialize)]
//! enum TutorEvent {
//!     TutorCreated(Tutor),
//!     TutorRenamed { name: String },
//!     #[serde(rename = "tutor.erased")]
//!     TutorErased,
//! }
//!
//! #[derive(Debug, PartialEq, Deserialize)]
//! struct Tutor {
//!     name: String,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let renamed = NewEvent::json("Tutor", 7, "TutorRenamed", &serde_json::json!({ "name": "Ada" }))?;
//! assert_eq!(decode(renamed.event())?, Some(TutorEvent::TutorRenamed { name: "Ada".into() }));
//!
//! let unheard_of = NewEvent::json("Tutor", 7, "TutorPromoted", &1)?;
//! assert_eq!(decode::<TutorEvent>(unheard_of.event())?, None);
//!
//! let broken = NewEvent::json("Tutor", 7, "TutorRenamed", &serde_json::json!({ "title": "Dr" }))?;
//! assert!(decode::<TutorEvent>(broken.event()).is_err());
//! # Ok(())
//! # }
//! ```
//!
//! The enum is tagged as serde does it by default, externally; `#[serde(rename)]`, `rename_all`, `alias` and, on a unit
//! variant, `#[serde(other)]` mean what they always do. A unit variant takes any payload and does not look at it. An event
//! without a payload, a tombstone, is read as JSON `null`: for unit variants and for those around an `Option`.
//!
//! [`typed`] makes a handler of such an enum into one of the SQL or inbox projections:
//!
//! | The event | What becomes of it |
//! |---|---|
//! | is of a type that is no variant | ignored, with a line in the log at level `DEBUG` |
//! | has a payload that does not fit its variant | rejected with the reason: a dead letter |
//! | is handled: `Ok(Handled::Done)` | done |
//! | does not concern this handler: `Ok(Handled::Ignored)` | counted as ignored |
//! | fails: `Err(HandlerError::retry(…))`, or `?` on a statement | tried again, see [`Handler`](crate::sql::Handler) |
//! | needs what is away: `Err(HandlerError::unavailable(…))` | tried again without end |
//! | cannot succeed: `Err(HandlerError::reject(reason))` | a dead letter with this reason |

mod variant;

use outbox_core::event::{Event, EventType};
use serde::Deserialize;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod handler;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use handler::{Typed, TypedHandler, typed};

/// Decodes an event; `None` when the enum has no variant of its type. The payload is read where it is: variants may
/// borrow from it.
///
/// # Errors
/// [`Broken`] when there is such a variant and the payload does not fit it, or is not JSON by the event's content type;
/// also for every event when `E` is no enum, or one that is tagged in another way.
pub fn decode<'e, E: Deserialize<'e>>(event: &'e Event) -> Result<Option<E>, Broken> {
    match E::deserialize(variant::Tagged::of(event)) {
        Ok(event) => Ok(Some(event)),
        Err(variant::Error::NoSuchVariant) => Ok(None),
        Err(variant::Error::Payload(source)) => Err(Broken { event_type: event.event_type.clone(), source }),
    }
}

/// A payload that does not fit its event type. Its source says where, and may quote a value of the payload.
#[derive(Debug, thiserror::Error)]
#[error("the payload does not fit the event type {event_type}")]
pub struct Broken {
    event_type: EventType,
    source: serde_json::Error,
}

impl Broken {
    /// The event type.
    #[must_use]
    pub fn event_type(&self) -> &EventType {
        &self.event_type
    }
}
