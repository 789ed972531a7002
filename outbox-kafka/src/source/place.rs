//! What the broker is asked about one partition. Everything here blocks.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outbox_core::{
    error::chain,
    profile::Decoder,
    source::{RawRecord, SourceError, SourceErrorKind, SourceRecord},
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer, StreamConsumer},
    error::KafkaError,
    types::RDKafkaErrorCode as Code,
};

use super::{
    builder::Reset,
    inbox::{Assignment, Raw, revoked},
    lookback::Lookback,
    member::Member,
    position::{self, Mark, Position},
};

/// How long one request to the broker may take.
const REQUEST: Duration = Duration::from_secs(10);

/// How long a request may take that only serves to show something.
const GLANCE: Duration = Duration::from_secs(1);

/// An assigned partition and who asks about it.
pub(crate) struct Place {
    pub(crate) is: Assignment,
    pub(crate) consumer: Arc<StreamConsumer<Member>>,
    pub(crate) lookback: Arc<Lookback>,
    pub(crate) decoder: Arc<dyn Decoder>,
}

impl Place {
    /// Where to begin: behind the position given, else behind what the group committed, else where `reset` says. A
    /// position that fits no more is refused.
    pub(crate) fn beginning(&self, after: Option<Position>, reset: Reset) -> Result<Position, SourceError> {
        let known = match after {
            Some(position) => Some(position),
            None => self.committed()?,
        };
        if let Some(position) = known {
            self.check(&position)?;
            return Ok(position);
        }
        let (low, high) = self.range()?;
        match reset {
            Reset::Oldest => Ok(Position::at(low)),
            Reset::Newest => Ok(Position::at(high)),
            Reset::Refuse => Err(SourceError::new(
                SourceErrorKind::Configuration,
                format!("nothing was committed of {}, and auto.offset.reset forbids to choose", self.is.partition),
            )),
        }
    }

    /// Before the first record that is there.
    pub(crate) fn oldest(&self) -> Result<Position, SourceError> {
        Ok(Position::at(self.range()?.0))
    }

    /// Refuses a position that is outside of the partition, or whose record is another one now.
    pub(crate) fn check(&self, position: &Position) -> Result<(), SourceError> {
        let (low, high) = self.range()?;
        position.check_range(&self.is.partition, low, high)?;
        let Some(expected) = &position.last else { return Ok(()) };
        let offset = position.next - 1;
        if offset < low {
            // Retention removed it, and nothing behind it.
            return Ok(());
        }
        let Assignment { topic, number, partition, .. } = &self.is;
        let found = self.lookback.record(topic, *number, offset, REQUEST);
        let found = found.map_err(|error| self.unavailable("the last record was not read back").with_source(error))?;
        let here = match found {
            Some(raw) => {
                let here = Mark::of(&decode(&*self.decoder, raw));
                if here == *expected {
                    return Ok(());
                }
                here.to_string()
            }
            None if self.may_be_compacted() => return Ok(()),
            None => "nothing".to_owned(),
        };
        let message = format!(
            "{partition} has {here} at {offset} where {expected} took effect: the topic was created again or restored; \
             decide where to start, for its records are other ones now"
        );
        Err(SourceError::new(SourceErrorKind::Recreated, message))
    }

    /// Just after the assignment librdkafka can refuse to seek, until it has begun to fetch; nothing signals that, so it
    /// is tried again while `assigned` holds.
    pub(crate) fn seek(&self, next: i64, assigned: impl Fn() -> Result<(), SourceError>) -> Result<(), SourceError> {
        let deadline = Instant::now() + REQUEST;
        loop {
            assigned()?;
            match self.consumer.seek(&self.is.topic, self.is.number, Offset::Offset(next), REQUEST) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(self.unavailable("it could not be positioned").with_source(error));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub(crate) fn commit(&self, position: &Position) -> Result<(), SourceError> {
        let mut list = TopicPartitionList::with_capacity(1);
        position::add_to(&mut list, &self.is.topic, self.is.number, position)
            .and_then(|()| self.consumer.commit(&list, CommitMode::Sync))
            .map_err(|error| {
                let refused = match error.rdkafka_error_code() {
                    // Not for an illegal generation: the group is rebalancing, and a cooperative member may well keep
                    // the partition. If not, its loss is told as an event.
                    Some(
                        Code::UnknownMemberId | Code::FencedInstanceId | Code::AssignmentLost | Code::UnknownPartition,
                    ) => revoked(&self.is.partition),
                    Some(Code::GroupAuthorizationFailed) => SourceError::new(
                        SourceErrorKind::Configuration,
                        "committing for the group is not allowed; grant it",
                    ),
                    _ => self.unavailable("the position was not committed"),
                };
                refused.with_source(error)
            })
    }

    fn committed(&self) -> Result<Option<Position>, SourceError> {
        let unknown = |error: KafkaError| self.unavailable("what was committed is not known").with_source(error);
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.is.topic, self.is.number);
        let committed = self.consumer.committed_offsets(list, REQUEST).map_err(unknown)?;
        let found = committed.find_partition(&self.is.topic, self.is.number);
        let Some(found) = found else { return Ok(None) };
        found.error().map_err(unknown)?;
        Ok(match found.offset() {
            Offset::Offset(next) => Some(Position::committed(next, found.metadata())),
            _ => None,
        })
    }

    /// How many records there are from this offset on.
    pub(crate) fn behind(&self, next: i64) -> Result<u64, SourceError> {
        let (low, high) = self.range_within(GLANCE)?;
        Ok(high.saturating_sub(next.max(low)).max(0) as u64)
    }

    fn range(&self) -> Result<(i64, i64), SourceError> {
        self.range_within(REQUEST)
    }

    fn range_within(&self, patience: Duration) -> Result<(i64, i64), SourceError> {
        let range = self.consumer.fetch_watermarks(&self.is.topic, self.is.number, patience);
        range.map_err(|error| self.unavailable("its range is not known").with_source(error))
    }

    /// A compacted topic may have removed the record rightly. Where nobody may ask, it is taken for one that is not.
    fn may_be_compacted(&self) -> bool {
        self.lookback.is_compacted(&self.is.topic, REQUEST).unwrap_or_else(|error| {
            let topic = &*self.is.topic;
            tracing::warn!(topic, %error, "whether the topic is compacted is not known; grant DescribeConfigs on it");
            false
        })
    }

    fn unavailable(&self, what: &str) -> SourceError {
        SourceError::new(SourceErrorKind::Unavailable, format!("{}: {what}; try again", self.is.partition))
    }
}

/// A record as the application sees it.
pub(crate) fn decode(decoder: &dyn Decoder, raw: Raw) -> SourceRecord {
    let received = match &raw.headers {
        Some(headers) => decoder.decode(raw.key.as_ref(), raw.payload.as_ref(), headers).map_err(|e| chain(&e)),
        None => Err("the name of a header is not UTF-8".to_owned()),
    };
    let Raw { offset, key, payload, headers } = raw;
    let raw = RawRecord { offset: offset as u64, key, payload, headers: headers.unwrap_or_default() };
    match received {
        Ok(event) => SourceRecord::Event { event, raw: Some(raw) },
        Err(reason) => SourceRecord::Undecodable { reason, raw },
    }
}
