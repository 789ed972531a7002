//! A dead letter, read back from its topic.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use outbox_core::{
    event::ReceivedEvent,
    profile::{CodecError, Decoder},
    projection::{DeadLetter, DeadLetterCause},
    source::{Partition, RawRecord, SourceRecord},
};
use uuid::Uuid;

use super::{header, reading};

/// A dead letter as [`TopicDeadLetters`](super::TopicDeadLetters) wrote it: with the record's own key, body and headers,
/// and what the headers of [`header`] say.
///
/// Made from a record of the topic by `TryFrom`, whatever the decoder of the source made of it. A place of your own keeps
/// what [`TopicLetter::of`] says, and makes it again by [`TopicLetter::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicLetter {
    /// [`DeadLetter::id`](outbox_core::projection::DeadLetter::id).
    pub id: Uuid,
    /// The projection that gave it up.
    pub projection: String,
    /// Where it stood, for people: such as `cluster/tutor-events/3@1207`.
    pub place: String,
    /// What was wrong.
    pub cause: DeadLetterCause,
    /// Why, for people; at most 4,096 bytes.
    pub reason: String,
    /// How often it was tried; 0 for one that could not be decoded.
    pub attempts: u32,
    /// When it was given up, to the microsecond.
    pub at: DateTime<Utc>,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's body.
    pub payload: Option<Bytes>,
    /// The record's headers in order, without those of [`header`].
    pub headers: Vec<(Arc<str>, Bytes)>,
    /// Its event came straight from a log, without a record, so [`RawPayload`](outbox_core::profile::RawPayload) reads it.
    /// That of a record is read by the decoder of its source, also where that is `RawPayload`.
    pub is_raw_payload: bool,
}

/// Why a record is no [`TopicLetter`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoTopicLetter {
    /// Somebody else wrote it.
    #[error("the record at offset {offset} is no dead letter: it has no header {}", header::ID)]
    Foreign {
        /// The record's number in its partition of the topic.
        offset: u64,
    },
    /// It is a dead letter that cannot be read, such as one of a later version.
    #[error("the dead letter at offset {offset} cannot be read: its header {header} is missing or says nothing known")]
    Unreadable {
        /// The record's number in its partition of the topic.
        offset: u64,
        /// The first header at fault.
        header: &'static str,
    },
    /// The source carries events without the records that they were decoded from.
    #[error("there is an event without the record of its dead letter: read the topic itself, as from its broker")]
    NoRecord,
}

impl TopicLetter {
    /// A letter without a record, that was given up at the beginning of 1970 after no try and for no reason: set what else
    /// you kept of it.
    #[must_use]
    pub fn new(id: Uuid, projection: impl Into<String>, place: impl Into<String>, cause: DeadLetterCause) -> Self {
        Self {
            id,
            projection: projection.into(),
            place: place.into(),
            cause,
            reason: String::new(),
            attempts: 0,
            at: DateTime::UNIX_EPOCH,
            key: None,
            payload: None,
            headers: Vec::new(),
            is_raw_payload: false,
        }
    }

    /// What a projection gave up, for a place of your own.
    #[must_use]
    pub fn of(projection: impl Into<String>, letter: &DeadLetter) -> Self {
        Self {
            id: letter.id(),
            projection: projection.into(),
            place: letter.place.clone(),
            cause: letter.cause,
            reason: letter.reason.clone(),
            attempts: letter.attempts,
            at: letter.at,
            key: letter.key.clone(),
            payload: letter.payload.clone(),
            headers: letter.headers.clone(),
            is_raw_payload: letter.is_raw_payload,
        }
    }

    /// The partition that it came from; `None` when its place does not say.
    #[must_use]
    pub fn partition(&self) -> Option<Partition> {
        self.place.rsplit_once('@').map(|(partition, _)| Partition::new(partition))
    }

    /// The event, by the decoder of the source that the projection reads, or a mended one. Where
    /// [`is_raw_payload`](Self::is_raw_payload) says so, that one is not asked.
    ///
    /// # Errors
    /// Those of the decoder.
    pub fn event(&self, decoder: &dyn Decoder) -> Result<ReceivedEvent, CodecError> {
        let decoder = reading::decoder(self.is_raw_payload, decoder);
        decoder.decode(self.key.as_ref(), self.payload.as_ref(), &self.headers)
    }
}

impl TryFrom<SourceRecord> for TopicLetter {
    type Error = NoTopicLetter;

    fn try_from(record: SourceRecord) -> Result<Self, NoTopicLetter> {
        match record {
            SourceRecord::Event { raw: Some(raw), .. } | SourceRecord::Undecodable { raw, .. } => raw.try_into(),
            SourceRecord::Event { raw: None, .. } => Err(NoTopicLetter::NoRecord),
        }
    }
}

impl TryFrom<RawRecord> for TopicLetter {
    type Error = NoTopicLetter;

    fn try_from(raw: RawRecord) -> Result<Self, NoTopicLetter> {
        let RawRecord { offset, key, payload, mut headers } = raw;
        // What stands before it is the record's own, also where it is named like one of these.
        let own = headers.iter().rposition(|(name, _)| &**name == header::ID);
        let said = Said { offset, headers: headers.split_off(own.ok_or(NoTopicLetter::Foreign { offset })?) };
        Ok(Self {
            id: said.parsed(header::ID, |text| text.parse().ok())?,
            projection: said.parsed(header::PROJECTION, |text| Some(text.to_owned()))?,
            place: said.parsed(header::PLACE, |text| Some(text.to_owned()))?,
            cause: said.parsed(header::CAUSE, DeadLetterCause::parse)?,
            reason: said.parsed(header::REASON, |text| Some(text.to_owned()))?,
            attempts: said.parsed(header::ATTEMPTS, |text| text.parse().ok())?,
            at: said.parsed(header::AT, |text| Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc()))?,
            key: key.filter(|_| said.text(header::KEYLESS).is_none()),
            payload,
            headers,
            is_raw_payload: said.text(header::RAW_PAYLOAD).is_some(),
        })
    }
}

/// What the headers behind the record's own say.
struct Said {
    offset: u64,
    headers: Vec<(Arc<str>, Bytes)>,
}

impl Said {
    fn text(&self, header: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(name, _)| &**name == header)?;
        std::str::from_utf8(value).ok()
    }

    fn parsed<T>(&self, header: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, NoTopicLetter> {
        self.text(header).and_then(parse).ok_or(NoTopicLetter::Unreadable { offset: self.offset, header })
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::{
        event::{LaneCount, NewEvent, RecordedEvent},
        memory::MemoryBroker,
        profile::{Encoder, RawPayload, SeedEnvelope},
        testing::Sequencer,
    };

    use super::*;
    use crate::dead_letters::{DeadLetters, TopicDeadLetters, read_to_end};

    fn raw(key: Option<&'static str>, payload: Option<&'static [u8]>, headers: &[(&str, &'static [u8])]) -> RawRecord {
        let headers = headers.iter().map(|(name, value)| (Arc::from(*name), Bytes::from_static(value))).collect();
        RawRecord { offset: 1_207, key: key.map(Bytes::from), payload: payload.map(Bytes::from_static), headers }
    }

    fn record_of(received: &ReceivedEvent) -> RawRecord {
        let lane = LaneCount::default().lane_of(&received.event.lane_key());
        let origin = received.origin.expect("an origin");
        let encoded = SeedEnvelope.encode(&RecordedEvent { origin, lane, event: received.event.clone() });
        let encoded = encoded.expect("encoded");
        let key = Some(Bytes::from(received.event.message_key().to_owned()));
        RawRecord { offset: 3, key, payload: encoded.payload, headers: encoded.headers }
    }

    fn letters() -> Vec<DeadLetter> {
        let partition = Partition::new("cluster@home/tutor-events/3");
        let undecodable = |raw| DeadLetter::undecodable(&partition, raw, "bad\nbytes: \u{e4}\0");
        let log = Sequencer::default();
        let created = log.receive(NewEvent::json("Tutor", 7, "TutorCreated", &[1, 2]).expect("event"));
        let erased = log.receive(NewEvent::tombstone("Tutor", 7, "TutorErased").expect("event"));
        let rejected = |received: &ReceivedEvent, raw| {
            DeadLetter::rejected(&partition, received.clone(), raw, "why".repeat(2_000), 3)
        };
        vec![
            rejected(&created, Some(record_of(&created))),
            rejected(&erased, Some(record_of(&erased))),
            rejected(&created, None),
            rejected(&erased, None),
            DeadLetter { cause: DeadLetterCause::Held, ..rejected(&created, None) },
            undecodable(raw(Some("k"), Some(b"\xff{"), &[])),
            undecodable(raw(None, Some(b""), &[("a", b"1"), ("", b"\0\xff"), ("a", b""), ("n\u{e4}me", b"2")])),
            undecodable(raw(Some(""), None, &[("dead-letter-reason", b"another's"), ("dead-letter-keyless", b"")])),
            undecodable(raw(None, None, &[("dead-letter-at", b"")])),
        ]
    }

    #[tokio::test]
    async fn what_was_written_is_read_back() {
        let (broker, letters) = (MemoryBroker::default(), letters());
        let topic = TopicDeadLetters::new(Arc::new(broker.publisher()), "letters");
        topic.store("tutor-count", &letters).await.expect("stored");
        let mut read = Vec::new();
        let mut source = broker.source("replay", ["letters"], SeedEnvelope);
        read_to_end(&mut source, |record| read.push(TopicLetter::try_from(record).expect("a letter")))
            .await
            .expect("read");
        assert_eq!(read.len(), letters.len());
        for (read, letter) in read.into_iter().zip(letters) {
            assert_eq!((read.id, &*read.projection, &read.place), (letter.id(), "tutor-count", &letter.place));
            assert_eq!(read.partition().as_ref(), Some(&letter.partition));
            assert_eq!((read.cause, read.attempts), (letter.cause, letter.attempts));
            assert_eq!(read.reason, letter.reason[..letter.reason.len().min(4_096)]);
            assert_eq!(read.at.timestamp_micros(), letter.at.timestamp_micros());
            assert_eq!(read.event(&SeedEnvelope).ok(), letter.event, "{}", letter.place);
            let mut of = TopicLetter::of("tutor-count", &letter);
            (of.reason, of.at) = (read.reason.clone(), read.at);
            assert_eq!(read, of);
            let mut kept = TopicLetter::new(of.id, of.projection, of.place, of.cause);
            (kept.reason, kept.attempts, kept.at) = (of.reason, of.attempts, of.at);
            (kept.key, kept.payload, kept.headers) = (of.key, of.payload, of.headers);
            kept.is_raw_payload = of.is_raw_payload;
            assert_eq!(read, kept, "from what a place of its own keeps");
        }
    }

    /// Whoever gives a decoder, mended or not, has it asked: all that is known of a record is what its source makes of it.
    #[tokio::test]
    async fn where_raw_payload_wrote_the_record_the_decoder_that_is_given_is_asked() {
        struct Mended;

        impl Decoder for Mended {
            fn decode(
                &self,
                key: Option<&Bytes>,
                payload: Option<&Bytes>,
                headers: &[(Arc<str>, Bytes)],
            ) -> Result<ReceivedEvent, CodecError> {
                let mut read = RawPayload.decode(key, payload, headers)?;
                read.event.payload = Some(Bytes::from_static(b"mended"));
                Ok(read)
            }
        }

        let event = Sequencer::default().receive(NewEvent::json("Tutor", 7, "TutorCreated", &[1]).expect("event"));
        let written = DeadLetter::rejected(&Partition::new("log/1"), event.clone(), None, "why", 1);
        let raw = RawRecord { offset: 3, key: written.key, payload: written.payload, headers: written.headers };
        let letter = DeadLetter::rejected(&Partition::new("topic/0"), event.clone(), Some(raw), "why", 1);
        let broker = MemoryBroker::default();
        let topic = TopicDeadLetters::new(Arc::new(broker.publisher()), "letters");
        topic.store("tutor-count", std::slice::from_ref(&letter)).await.expect("stored");
        let mut read: Vec<TopicLetter> = vec![TopicLetter::of("tutor-count", &letter)];
        let mut source = broker.source("replay", ["letters"], SeedEnvelope);
        read_to_end(&mut source, |record| read.push(record.try_into().expect("a letter"))).await.expect("read");
        assert_eq!(read.len(), 2);
        for letter in read {
            assert_eq!(letter.event(&RawPayload).expect("read"), event);
            assert_eq!(letter.event(&Mended).expect("read").event.payload.as_deref(), Some(&b"mended"[..]));
            assert!(letter.event(&SeedEnvelope).is_err());
        }
    }

    #[tokio::test]
    async fn what_is_no_letter_is_told() {
        let foreign = raw(Some("k"), Some(b"{}"), &[("dead-letter-reason", b"looks like one")]);
        assert_eq!(TopicLetter::try_from(foreign), Err(NoTopicLetter::Foreign { offset: 1_207 }));
        let event = Sequencer::default().receive(NewEvent::tombstone("Tutor", 7, "TutorErased").expect("event"));
        assert_eq!(TopicLetter::try_from(SourceRecord::event(event)), Err(NoTopicLetter::NoRecord));

        let broker = MemoryBroker::default();
        let topic = TopicDeadLetters::new(Arc::new(broker.publisher()), "letters");
        topic.store("tutor-count", &letters()[..1]).await.expect("stored");
        let written = broker.messages("letters").remove(0);
        let record = |headers| RawRecord { offset: 9, key: None, payload: None, headers };
        let parsed = [header::ID, header::CAUSE, header::ATTEMPTS, header::AT];
        for header in [header::PROJECTION, header::PLACE, header::REASON].into_iter().chain(parsed) {
            let at = written.headers.iter().position(|(name, _)| &**name == header).expect("the header");
            let unreadable = Err(NoTopicLetter::Unreadable { offset: 9, header });
            let mut without = written.headers.clone();
            without.remove(at);
            let expected =
                if header == header::ID { Err(NoTopicLetter::Foreign { offset: 9 }) } else { unreadable.clone() };
            assert_eq!(TopicLetter::try_from(record(without)), expected);
            let mut odd = written.headers.clone();
            odd[at].1 = Bytes::from_static(if parsed.contains(&header) { b"odd" } else { b"\xff" });
            assert_eq!(TopicLetter::try_from(record(odd)), unreadable);
        }
    }
}
