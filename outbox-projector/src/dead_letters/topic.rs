//! Dead letters in a topic.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::{
    event::LaneCount,
    projection::DeadLetter,
    publisher::{LaneStream, Message, Outcome, PublishError, PublishErrorKind, Publisher},
};
use tokio::sync::Mutex;

use super::{DeadLetters, DeadLettersError, DeadLettersErrorKind};

/// Dead letters as messages of a topic, written through any [`Publisher`]: key, body and headers as they came, and the
/// headers of [`header`] that say what happened. [`TopicLetter`](super::TopicLetter) reads them back.
///
/// Give it a publisher of its own, not that of a relay: both would open streams of the same lanes.
///
/// A letter is stored once the broker acknowledged it. After a crash it can be there twice, with the same
/// [`header::ID`]. Each is written by itself, so a batch is never refused because of one letter.
///
/// A record that is a dead letter already, by [`header::ID`], is refused: a projection that reads this topic must not
/// write what it cannot apply to the end of it again and again.
pub struct TopicDeadLetters {
    publisher: Arc<dyn Publisher>,
    topic: Arc<str>,
    stream: Mutex<Option<Box<dyn LaneStream>>>,
}

/// The headers that a dead letter has in addition to its own.
pub mod header {
    /// What they begin with.
    pub const PREFIX: &str = "dead-letter-";
    /// The letter's id, [`DeadLetter::id`](outbox_core::projection::DeadLetter::id), hyphenated.
    pub const ID: &str = "dead-letter-id";
    /// The projection that gave it up.
    pub const PROJECTION: &str = "dead-letter-projection";
    /// Where it stood, such as `cluster/tutor-events/3@1207`.
    pub const PLACE: &str = "dead-letter-place";
    /// What was wrong, [`DeadLetterCause::as_str`](outbox_core::projection::DeadLetterCause::as_str).
    pub const CAUSE: &str = "dead-letter-cause";
    /// Why, for people; at most 4,096 bytes.
    pub const REASON: &str = "dead-letter-reason";
    /// How often it was tried, decimal.
    pub const ATTEMPTS: &str = "dead-letter-attempts";
    /// When it was given up, RFC 3339 in UTC.
    pub const AT: &str = "dead-letter-at";
    /// There, with any value, when its record had no key; the letter's own is empty then.
    pub const KEYLESS: &str = "dead-letter-keyless";
    /// There, with any value, when its event came straight from a log, without a record:
    /// [`RawPayload`](outbox_core::profile::RawPayload) reads it. Without it, the decoder of its source does.
    pub const RAW_PAYLOAD: &str = "dead-letter-raw-payload";
}

/// A reason may quote a body; a message may not grow past what brokers take.
const REASON_BYTES: usize = 4_096;

impl TopicDeadLetters {
    /// Writes to this topic, which should exist, be kept for long and not be compacted.
    #[must_use]
    pub fn new(publisher: Arc<dyn Publisher>, topic: impl Into<Arc<str>>) -> Self {
        Self { publisher, topic: topic.into(), stream: Mutex::new(None) }
    }

    fn message(&self, projection: &str, letter: &DeadLetter) -> Message {
        let mut headers = letter.headers.clone();
        let reason = &letter.reason[..letter.reason.floor_char_boundary(REASON_BYTES)];
        let at = letter.at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let (id, attempts) = (letter.id().to_string(), letter.attempts.to_string());
        for (name, value) in [
            (header::ID, id.as_str()),
            (header::PROJECTION, projection),
            (header::PLACE, &letter.place),
            (header::CAUSE, letter.cause.as_str()),
            (header::REASON, reason),
            (header::ATTEMPTS, &attempts),
            (header::AT, &at),
        ] {
            headers.push((name.into(), Bytes::copy_from_slice(value.as_bytes())));
        }
        let is_so = [(header::KEYLESS, letter.key.is_none()), (header::RAW_PAYLOAD, letter.is_raw_payload)];
        for (name, _) in is_so.into_iter().filter(|(_, is_so)| *is_so) {
            headers.push((name.into(), Bytes::from_static(b"true")));
        }
        let key = letter.key.clone().unwrap_or_default();
        Message { topic: self.topic.clone(), key, payload: letter.payload.clone(), headers }
    }

    async fn send(&self, stream: &mut Box<dyn LaneStream>, message: Message) -> Result<(), PublishError> {
        let permit = stream.reserve(1, message.bytes()).await?;
        let mut delivery = permit.send(vec![message]);
        match delivery.next().await.into_iter().next() {
            Some((_, Outcome::Delivered)) => Ok(()),
            Some((_, Outcome::Failed(error))) => Err(error),
            Some((_, Outcome::Aborted)) | None => {
                let message = "the dead letter was not written, because an earlier one failed";
                Err(PublishError::new(PublishErrorKind::Environment, message))
            }
        }
    }
}

#[async_trait]
impl DeadLetters for TopicDeadLetters {
    async fn store(&self, projection: &str, letters: &[DeadLetter]) -> Result<(), DeadLettersError> {
        if let Some(again) = letters.iter().find(|l| l.headers.iter().any(|(name, _)| &**name == header::ID)) {
            let message = format!(
                "{} is a dead letter already and is not written to {} again: mend what reads it, or skip it",
                again.place, self.topic
            );
            return Err(DeadLettersError::new(DeadLettersErrorKind::Refused, message));
        }
        let mut kept = self.stream.lock().await;
        for letter in letters {
            let message = self.message(projection, letter);
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => self.publisher.open_isolated(lane()).await.map_err(|error| self.error(letter, error))?,
            };
            self.send(&mut stream, message).await.map_err(|error| self.error(letter, error))?;
            // One that failed, or that nobody waited for any more, is broken and was dropped.
            *kept = Some(stream);
        }
        Ok(())
    }
}

impl TopicDeadLetters {
    fn error(&self, letter: &DeadLetter, error: PublishError) -> DeadLettersError {
        let kind = match error.kind() {
            PublishErrorKind::Environment | PublishErrorKind::Suspect => DeadLettersErrorKind::Unavailable,
            _ => DeadLettersErrorKind::Refused,
        };
        let message = format!("the dead letter of {} could not be written to {}", letter.place, self.topic);
        DeadLettersError::new(kind, message).with_source(error)
    }
}

/// Dead letters are few: they share a stream.
fn lane() -> outbox_core::event::Lane {
    LaneCount::default().lane_of("dead-letters")
}
