//! A dead letter as it stands in its table.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use outbox_core::{
    event::{ReceivedEvent, Sequence},
    profile::{CodecError, Decoder},
    projection::{DeadLetter, DeadLetterCause},
    source::Partition,
};
use uuid::Uuid;

use super::headers;
use crate::{dead_letters::reading, sql::Series};

/// What is known of a dead letter that a projection keeps, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptLetter {
    /// [`DeadLetter::id`].
    pub id: Uuid,
    /// In which order letters were given up: later ones have higher numbers, with gaps.
    pub number: i64,
    /// The key that it belongs to; `None` when it could not be decoded.
    pub series: Option<Series>,
    /// Its place among the events of its key; `None` when it could not be decoded or carries none.
    pub sequence: Option<Sequence>,
    /// Where it came from.
    pub partition: Partition,
    /// Where it stood, for people.
    pub place: String,
    /// What was wrong when it was given up.
    pub cause: DeadLetterCause,
    /// What was wrong when it was last tried, for people; at most 4,096 bytes.
    pub reason: String,
    /// How often it was tried, replays included.
    pub attempts: u32,
    /// When it was given up.
    pub at: DateTime<Utc>,
    /// Whether key, body and headers are here too. Where the projector stores dead letters elsewhere, only their ids are
    /// here, and a replay has to be given the rest: [`Replay::from_topic`](crate::dead_letters::Replay::from_topic).
    pub is_whole: bool,
}

/// Key, body and headers of a kept dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptRecord {
    /// Its key.
    pub key: Option<Bytes>,
    /// Its body.
    pub payload: Option<Bytes>,
    /// Its headers in order.
    pub headers: Vec<(Arc<str>, Bytes)>,
    pub(super) form: Form,
}

/// How a letter's body is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As it came.
    Record,
    /// As [`RawPayload`](outbox_core::profile::RawPayload) writes the event, which had no record.
    Event,
    /// Not here.
    Elsewhere,
}

impl Form {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Event => "event",
            Self::Elsewhere => "elsewhere",
        }
    }

    pub(super) fn parse(text: &str) -> Self {
        [Self::Record, Self::Event].into_iter().find(|form| form.as_str() == text).unwrap_or(Self::Elsewhere)
    }
}

impl KeptLetter {
    /// Takes its place among the events of its key, which is returned.
    pub(super) fn file_under(&mut self, received: &ReceivedEvent) -> &Series {
        self.sequence = received.origin.map(|origin| origin.sequence);
        self.series.insert(Series::of_received(received))
    }
}

impl KeptRecord {
    /// The event, by the decoder of the source that it came from, or a mended one. One that came straight from a log is
    /// decoded by [`RawPayload`](outbox_core::profile::RawPayload), whatever is given here.
    ///
    /// # Errors
    /// Those of the decoder.
    pub fn event(&self, decoder: &dyn Decoder) -> Result<ReceivedEvent, CodecError> {
        let decoder = reading::decoder(self.form == Form::Event, decoder);
        decoder.decode(self.key.as_ref(), self.payload.as_ref(), &self.headers)
    }
}

/// A letter that is to be kept.
pub struct NewLetter<'l> {
    letter: &'l DeadLetter,
    pub(super) series: Option<Series>,
    pub(super) form: Form,
    pub(super) headers: Option<Vec<u8>>,
}

/// A reason may quote a body.
const REASON_BYTES: usize = 4_096;

impl<'l> NewLetter<'l> {
    /// With its body, if that is kept here.
    pub(in crate::sql) fn of(letter: &'l DeadLetter, here: bool) -> Self {
        let form = if !here {
            Form::Elsewhere
        } else if letter.is_raw_payload {
            Form::Event
        } else {
            Form::Record
        };
        let series = letter.event.as_ref().map(Series::of_received);
        Self { letter, series, form, headers: here.then(|| headers::to_bytes(&letter.headers)) }
    }

    pub(super) fn id(&self) -> Uuid {
        self.letter.id()
    }

    pub(super) fn log(&self) -> Option<Uuid> {
        self.series.as_ref().map(|series| series.log.0)
    }

    pub(super) fn aggregate_type(&self) -> Option<&str> {
        self.series.as_ref().map(|series| series.aggregate_type.as_str())
    }

    pub(super) fn ordering_key(&self) -> Option<&str> {
        self.series.as_ref().map(|series| series.ordering_key.as_str())
    }

    pub(super) fn sequence(&self) -> Option<i64> {
        let origin = self.letter.event.as_ref().and_then(|received| received.origin);
        origin.map(|origin| origin.sequence.get() as i64)
    }

    pub(super) fn partition(&self) -> &str {
        self.letter.partition.as_str()
    }

    pub(super) fn place(&self) -> String {
        storable(&self.letter.place)
    }

    pub(super) fn cause(&self) -> &'static str {
        self.letter.cause.as_str()
    }

    pub(super) fn reason(&self) -> String {
        storable(&self.letter.reason)
    }

    pub(super) fn attempts(&self) -> i64 {
        i64::from(self.letter.attempts)
    }

    pub(super) fn at(&self) -> DateTime<Utc> {
        self.letter.at
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        self.letter.key.as_deref().filter(|_| self.form != Form::Elsewhere)
    }

    pub(super) fn payload(&self) -> Option<&[u8]> {
        self.letter.payload.as_deref().filter(|_| self.form != Form::Elsewhere)
    }
}

/// PostgreSQL's text holds no zero byte.
pub(super) fn storable(text: &str) -> String {
    text[..text.floor_char_boundary(REASON_BYTES)].replace('\0', "\u{fffd}")
}

pub(super) fn cause_of(text: &str) -> DeadLetterCause {
    DeadLetterCause::parse(text).unwrap_or(DeadLetterCause::Rejected)
}
