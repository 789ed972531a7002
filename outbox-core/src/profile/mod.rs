//! How events become messages: router, encoder and limits, shared by writer and relay, so that what cannot be
//! published is refused at append.
//!
//! | Encoder | Body | For |
//! |---|---|---|
//! | [`SeedEnvelope`], the default | one JSON object around the payload | consumers that read the body only |
//! | [`LeanEnvelope`] | the same, with two headers instead of seven | many small events |
//! | [`CloudEvents::structured`] | a CloudEvents 1.0 JSON object around the payload | consumers with a CloudEvents SDK |
//! | [`CloudEvents::binary`] | the payload | the same, payloads that are not JSON, compacted topics |
//! | [`RawPayload`] | the payload | payloads that are not JSON, compacted topics |
//!
//! Each is a [`Decoder`] of what it writes too.

mod cloud_events;
mod encoder;
mod facts;
pub mod header;
mod header_list;
mod json;
mod limits;
mod raw;
#[cfg(test)]
mod round_trip;
mod router;
mod seed_envelope;
mod text;
mod topics;

use std::sync::Arc;

use bytes::Bytes;

pub use cloud_events::CloudEvents;
pub use encoder::{CodecError, CodecErrorKind, Decoder, Encoded, Encoder};
pub use limits::Limits;
pub use raw::RawPayload;
pub use router::{PerAggregateType, Router, TopicTable};
pub use seed_envelope::{LeanEnvelope, SeedEnvelope};

use crate::{
    error::kinded_error,
    event::{Event, Field, InvalidEvent, InvalidReason, NewEvent, RecordedEvent, ordered_or_not},
    publisher::Message,
};

/// Router, encoder and limits.
///
/// Default: [`PerAggregateType`], [`SeedEnvelope`], [`Limits::default`]. Cloning is cheap.
#[derive(Clone)]
pub struct Profile {
    router: Arc<dyn Router>,
    encoder: Arc<dyn Encoder>,
    limits: Limits,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            router: Arc::new(PerAggregateType::default()),
            encoder: Arc::new(SeedEnvelope),
            limits: Limits::default(),
        }
    }
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Profile {
    /// Uses this router.
    #[must_use]
    pub fn with_router(mut self, router: impl Router + 'static) -> Self {
        self.router = Arc::new(router);
        self
    }

    /// Uses this encoder.
    #[must_use]
    pub fn with_encoder(mut self, encoder: impl Encoder + 'static) -> Self {
        self.encoder = Arc::new(encoder);
        self
    }

    /// Uses these limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether the event can be published as configured. Adapters of [`crate::outbox::Outbox`] call it before they
    /// send anything.
    ///
    /// # Errors
    /// [`InvalidEvent`] naming the field at fault: an unordered event has an ordering key, the payload is over its
    /// limit, the router has no topic, the encoder cannot carry a field, or the whole message would be too long.
    pub fn check(&self, event: &NewEvent) -> Result<(), InvalidEvent> {
        let event = event.event();
        ordered_or_not(event)?;
        let refuse_over = |field, bytes, limit| {
            if bytes > limit { Err(InvalidEvent::new(field, InvalidReason::TooLong { bytes, limit })) } else { Ok(()) }
        };
        let payload = event.payload.as_ref().map_or(0, Bytes::len);
        refuse_over(Field::Payload, payload, self.limits.payload_bytes)?;
        self.router.topic(event)?;
        let encoded = self.encoder.check(event)?;
        refuse_over(Field::Message, event.message_key().len() + encoded, self.limits.message_bytes)
    }

    /// The topic of an event.
    ///
    /// # Errors
    /// [`InvalidEvent`] when the router has none.
    pub fn topic(&self, event: &Event) -> Result<Arc<str>, InvalidEvent> {
        self.router.topic(event)
    }

    /// The message of an event.
    ///
    /// # Errors
    /// [`CodecError`] when the event, though recorded, cannot be published as configured now.
    pub fn message(&self, recorded: &RecordedEvent) -> Result<Message, CodecError> {
        let topic = self.router.topic(&recorded.event).map_err(|invalid| {
            CodecError::new(CodecErrorKind::Field, "a recorded event has no topic any more; mend the router")
                .with_source(invalid)
        })?;
        let Encoded { payload, headers } = self.encoder.encode(recorded)?;
        Ok(Message { topic, key: Bytes::copy_from_slice(recorded.event.message_key().as_bytes()), payload, headers })
    }
}

kinded_error! {
    /// Why a part of a profile cannot be made as configured.
    ProfileError, ProfileErrorKind
}

/// The kinds of [`ProfileError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProfileErrorKind {
    /// A topic has a name that no broker takes.
    Topic,
    /// The source of CloudEvents is no URI reference.
    Source,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_refused_by_field() {
        let two_mib = "x".repeat(2 * 1024 * 1024);
        let event = NewEvent::json("Tutor", 1, "TutorCreated", &two_mib).expect("event");
        let refused = Profile::default().check(&event).expect_err("2 MiB");
        assert_eq!(refused.field(), Field::Payload);

        let nearly = "x".repeat(1_047_950);
        let event = NewEvent::json("Tutor", 1, "TutorCreated", &nearly).expect("event");
        let refused = Profile::default().check(&event).expect_err("the envelope does not fit");
        assert_eq!(refused.field(), Field::Message);
    }

    #[test]
    fn an_unordered_event_with_an_ordering_key_is_refused() {
        let event = || NewEvent::tombstone("Tutor", 1, "TutorViewed").expect("event");
        let keyed_first = event().with_ordering_key("room/1").expect("key").unordered();
        let refused = Profile::default().check(&keyed_first).expect_err("both");
        assert_eq!((refused.field(), refused.reason()), (Field::OrderingKey, &InvalidReason::Unordered));
        assert_eq!(event().unordered().with_ordering_key("room/1").expect_err("both"), refused);
        Profile::default().check(&event().unordered()).expect("unordered alone");
    }
}
