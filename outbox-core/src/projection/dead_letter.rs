use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    event::{Event, LaneCount, LogId, Origin, ReceivedEvent, RecordedEvent, Sequence},
    profile::{Encoder, RawPayload},
    source::{Partition, RawRecord},
};

/// A record that a projection gave up, as it came and with the reason. Whoever keeps it can apply it later.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Where it came from.
    pub partition: Partition,
    /// Where it stood, for people: such as `tutor-events/3@1207`.
    pub place: String,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's body.
    pub payload: Option<Bytes>,
    /// The record's headers.
    pub headers: Vec<(Arc<str>, Bytes)>,
    /// Key, body and headers are not as they came but as [`RawPayload`] writes the event: it had no record of its own.
    pub is_raw_payload: bool,
    /// The event, if it could be decoded.
    pub event: Option<ReceivedEvent>,
    /// What was wrong.
    pub cause: DeadLetterCause,
    /// Why, for people: the error with all its causes.
    pub reason: String,
    /// How often it was tried; 0 for one that could not be decoded.
    pub attempts: u32,
    /// When it was given up.
    pub at: DateTime<Utc>,
}

/// What was wrong with a [`DeadLetter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadLetterCause {
    /// It could not be decoded.
    Undecodable,
    /// It could not be applied.
    Rejected,
    /// An earlier one of its key is a dead letter.
    Held,
}

impl DeadLetterCause {
    /// A word for it, as written into stores and headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::Rejected => "rejected",
            Self::Held => "held",
        }
    }

    /// The cause with this [word](Self::as_str); `None`: no such cause is known.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Undecodable, Self::Rejected, Self::Held].into_iter().find(|cause| cause.as_str() == text)
    }
}

impl DeadLetter {
    /// A record that could not be decoded.
    #[must_use]
    pub fn undecodable(partition: &Partition, raw: RawRecord, reason: impl Into<String>) -> Self {
        Self {
            partition: partition.clone(),
            place: raw.place(partition),
            key: raw.key,
            payload: raw.payload,
            headers: raw.headers,
            is_raw_payload: false,
            event: None,
            cause: DeadLetterCause::Undecodable,
            reason: reason.into(),
            attempts: 0,
            at: Utc::now(),
        }
    }

    /// An event that could not be applied. Without the record that it was decoded from, as straight from a log, the
    /// letter has it as [`RawPayload`] writes it.
    #[must_use]
    pub fn rejected(
        partition: &Partition,
        event: ReceivedEvent,
        raw: Option<RawRecord>,
        reason: impl Into<String>,
        attempts: u32,
    ) -> Self {
        let is_raw_payload = raw.is_none();
        let (place, key, payload, headers) = match raw {
            Some(raw) => (raw.place(partition), raw.key, raw.payload, raw.headers),
            None => written(partition, &event),
        };
        Self {
            partition: partition.clone(),
            place,
            key,
            payload,
            headers,
            is_raw_payload,
            event: Some(event),
            cause: DeadLetterCause::Rejected,
            reason: reason.into(),
            attempts,
            at: Utc::now(),
        }
    }

    /// The same for the same record, however often it is given up: the event's id, or else a hash of the record and its
    /// place.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.event.as_ref().map_or_else(|| self.hash(), |received| received.event.id)
    }

    /// Each part with its length, so that no two records are the same bytes in a row.
    fn hash(&self) -> Uuid {
        let mut hash = Sha256::new();
        let mut part = |bytes: Option<&[u8]>| {
            hash.update([u8::from(bytes.is_some())]);
            hash.update((bytes.map_or(0, <[u8]>::len) as u64).to_be_bytes());
            hash.update(bytes.unwrap_or_default());
        };
        part(Some(self.place.as_bytes()));
        part(self.key.as_deref());
        part(self.payload.as_deref());
        for (name, value) in &self.headers {
            part(Some(name.as_bytes()));
            part(Some(value));
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

type Written = (String, Option<Bytes>, Option<Bytes>, Vec<(Arc<str>, Bytes)>);

/// An event that no record was kept of.
fn written(partition: &Partition, received: &ReceivedEvent) -> Written {
    let ReceivedEvent { origin, event } = received;
    let place = match origin {
        Some(origin) => format!("{partition}@{}", origin.sequence),
        None => format!("{partition}@{}", event.id),
    };
    // Without a place nothing orders it, whoever wrote it.
    let recorded = RecordedEvent {
        origin: origin.unwrap_or(Origin { log: LogId(Uuid::nil()), sequence: Sequence::ZERO }),
        lane: LaneCount::default().lane_of(&event.lane_key()),
        event: Event { unordered: origin.is_none(), ..event.clone() },
    };
    let headers = RawPayload.encode(&recorded).map(|encoded| encoded.headers).unwrap_or_default();
    (place, Some(Bytes::from(event.message_key().to_owned())), event.payload.clone(), headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::NewEvent, profile::Decoder};

    fn received(unordered: bool) -> ReceivedEvent {
        let event = NewEvent::json("Tutor", 7, "TutorCreated", &[1, 2]).expect("event");
        let event = if unordered { event.unordered() } else { event.with_ordering_key("room").expect("key") };
        let origin = Origin { log: LogId(Uuid::from_u128(1)), sequence: Sequence::new(0, 9).expect("sequence") };
        ReceivedEvent { origin: (!unordered).then_some(origin), event: event.into_event() }
    }

    #[test]
    fn an_event_straight_from_a_log_can_be_decoded_from_its_letter() {
        for unordered in [false, true] {
            let received = received(unordered);
            let letter = DeadLetter::rejected(&Partition::new("log/1"), received.clone(), None, "why", 1);
            assert!(letter.is_raw_payload);
            let back = RawPayload.decode(letter.key.as_ref(), letter.payload.as_ref(), &letter.headers);
            assert_eq!(back.expect("decoded"), received);
        }
    }

    #[test]
    fn a_letter_has_the_same_id_each_time_and_others_have_others() {
        let raw =
            |offset| RawRecord { offset, key: None, payload: Some(Bytes::from_static(b"{")), headers: Vec::new() };
        let id = |partition, offset| DeadLetter::undecodable(&Partition::new(partition), raw(offset), "bad").id();
        assert_eq!(id("a/0", 1), id("a/0", 1));
        assert_ne!(id("a/0", 1), id("a/0", 2));
        assert_ne!(id("a/0", 1), id("a/1", 1));
        let event = received(false);
        let rejected = DeadLetter::rejected(&Partition::new("a/0"), event.clone(), Some(raw(1)), "why", 1);
        assert_eq!((rejected.id(), &*rejected.place, rejected.is_raw_payload), (event.event.id, "a/0@1", false));
    }

    /// A log that was made anew gives another record the same place.
    #[test]
    fn whatever_differs_in_an_undecodable_record_makes_another_id() {
        fn headers(headers: &[(&str, &'static str)]) -> Vec<(Arc<str>, Bytes)> {
            headers.iter().map(|(name, value)| (Arc::from(*name), Bytes::from_static(value.as_bytes()))).collect()
        }
        let id = |key: Option<&'static str>, payload: Option<&'static str>, headers: &Vec<(Arc<str>, Bytes)>| {
            let (key, payload, headers) = (key.map(Bytes::from), payload.map(Bytes::from), headers.clone());
            DeadLetter::undecodable(&Partition::new("a/0"), RawRecord { offset: 1, key, payload, headers }, "bad").id()
        };
        let bodies =
            [(None, None), (Some(""), None), (None, Some("")), (Some("ab"), Some("c")), (Some("a"), Some("bc"))];
        let several = [&[][..], &[("", "")], &[("a", "bc")], &[("ab", "c")], &[("a", "bc"), ("", "")]].map(headers);
        let mut ids: Vec<Uuid> = Vec::new();
        for (key, payload) in bodies {
            ids.extend(several.iter().map(|headers| id(key, payload, headers)));
        }
        let different: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(different.len(), bodies.len() * several.len());
        assert_eq!(ids[0], id(None, None, &several[0]), "and the same again");
    }
}
