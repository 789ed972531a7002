//! Names of partitions, and positions in them.

use std::fmt;

use outbox_core::source::{Partition, SourceError, SourceErrorKind, SourcePosition, SourceRecord};
use rdkafka::{Offset, TopicPartitionList, error::KafkaResult};

/// `cluster/topic/number`: tells apart partitions of the same name in different clusters.
pub(crate) fn partition(cluster: &str, topic: &str, number: i32) -> Partition {
    Partition::new(format!("{cluster}/{topic}/{number}"))
}

/// The place behind a record. As text `1207:` and the [`Mark`] of the record at 1206, or `1207` alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// The offset of the next record.
    pub(crate) next: i64,
    /// What the record before it was, if known.
    pub(crate) last: Option<Mark>,
}

impl Position {
    pub(crate) fn at(next: i64) -> Self {
        Self { next, last: None }
    }

    pub(crate) fn behind(offset: i64, record: &SourceRecord) -> Self {
        Self { next: offset + 1, last: Some(Mark::of(record)) }
    }

    pub(crate) fn parse(partition: &Partition, position: &SourcePosition) -> Result<Self, SourceError> {
        let text = position.as_text();
        let (next, last) = text.split_once(':').map_or((text, None), |(next, last)| (next, Some(last)));
        let next = next.parse().ok().filter(|next| *next >= 0);
        match (next, last, last.and_then(Mark::parse)) {
            (Some(next), None, last) | (Some(next), Some(_), last @ Some(_)) => Ok(Self { next, last }),
            _ => Err(SourceError::new(
                SourceErrorKind::BadPosition,
                format!("{text:?} is no position of {partition}: expected the offset of the next record"),
            )),
        }
    }

    /// From what a group committed. Metadata of other programs says nothing of the record.
    pub(crate) fn committed(next: i64, metadata: &str) -> Self {
        Self { next, last: metadata.strip_prefix(METADATA).and_then(Mark::parse) }
    }

    /// What to commit along with the offset.
    fn metadata(&self) -> Option<String> {
        self.last.as_ref().map(|last| format!("{METADATA}{last}"))
    }

    /// Refuses a position that the partition does not have (any more): it would be read from another place in silence.
    pub(crate) fn check_range(&self, partition: &Partition, low: i64, high: i64) -> Result<(), SourceError> {
        let next = self.next;
        if next > high {
            let message = format!(
                "{partition} ends at {high}, before the position {next}: its end was lost, or the topic was created \
                 again; decide where to start, for its records are other ones now"
            );
            return Err(SourceError::new(SourceErrorKind::Truncated, message));
        }
        if next < low {
            let message = format!(
                "{partition} begins at {low}, behind the position {next}: retention removed records that were not \
                 read; rebuild, or decide to go on without them"
            );
            return Err(SourceError::new(SourceErrorKind::Expired, message));
        }
        Ok(())
    }
}

impl From<&Position> for SourcePosition {
    fn from(Position { next, last }: &Position) -> Self {
        Self::from_text(last.as_ref().map_or_else(|| next.to_string(), |last| format!("{next}:{last}")))
    }
}

/// For a commit.
pub(crate) fn add_to(list: &mut TopicPartitionList, topic: &str, number: i32, position: &Position) -> KafkaResult<()> {
    list.add_partition_offset(topic, number, Offset::Offset(position.next))?;
    if let (Some(mut added), Some(metadata)) = (list.find_partition(topic, number), position.metadata()) {
        added.set_metadata(metadata);
    }
    Ok(())
}

const METADATA: &str = "last=";

/// Which record it was: the event's id, or `~` and a checksum of what is no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) fn of(record: &SourceRecord) -> Self {
        Self(match record {
            SourceRecord::Event { event: received, .. } => received.event.id.to_string(),
            SourceRecord::Undecodable { raw, .. } => {
                let parts = [raw.key.as_deref(), raw.payload.as_deref()].map(Option::unwrap_or_default);
                format!("~{:016x}", checksum(parts))
            }
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = |text: &str| text.chars().all(|c| c == '-' || c.is_ascii_hexdigit());
        let well_formed = match text.strip_prefix('~') {
            Some(checksum) => checksum.len() == 16 && digits(checksum),
            None => text.len() == 36 && digits(text),
        };
        well_formed.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// FNV-1a over the parts, each ended by its length. Written down here because it is compared across versions.
fn checksum(parts: [&[u8]; 2]) -> u64 {
    let lengths = parts.map(|part| (part.len() as u64).to_le_bytes());
    let bytes = parts.iter().zip(&lengths).flat_map(|(part, length)| part.iter().chain(length));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use outbox_core::{event::NewEvent, source::RawRecord, testing::Sequencer};

    use super::*;

    fn undecodable(key: &'static [u8], payload: &'static [u8]) -> SourceRecord {
        let raw = RawRecord { offset: 0, key: Some(key.into()), payload: Some(payload.into()), headers: Vec::new() };
        SourceRecord::Undecodable { reason: String::new(), raw }
    }

    #[test]
    fn positions_survive_the_way_there_and_back() {
        let partition = partition("c", "tutor-events", 3);
        assert_eq!(partition.as_str(), "c/tutor-events/3");
        let event = Sequencer::default().receive(NewEvent::tombstone("Tutor", 7, "TutorDeleted").expect("event"));
        let id = event.event.id;
        let behind = Position::behind(41, &SourceRecord::event(event));
        assert_eq!(SourcePosition::from(&behind).as_text(), format!("42:{id}"));
        for position in [behind, Position::at(0), Position::behind(0, &undecodable(b"k", b"\xff"))] {
            assert_eq!(Position::parse(&partition, &(&position).into()).expect("position"), position);
            let metadata = position.metadata().unwrap_or_default();
            assert_eq!(Position::committed(position.next, &metadata), position);
        }
    }

    #[test]
    fn what_is_no_position_is_refused_and_foreign_metadata_ignored() {
        let partition = partition("c", "t", 0);
        for bad in ["", "-1", "x", "1.5", "7:", "7:tutor", "7:~1", ":"] {
            let refused = Position::parse(&partition, &SourcePosition::from_text(bad)).expect_err(bad);
            assert_eq!(refused.kind(), SourceErrorKind::BadPosition);
        }
        for foreign in ["", "committed by a colleague", "last=", "last=something"] {
            assert_eq!(Position::committed(7, foreign), Position::at(7), "{foreign}");
        }
    }

    #[test]
    fn checksums_are_the_same_in_every_version() {
        let mark = |key, payload| Mark::of(&undecodable(key, payload)).to_string();
        assert_eq!(mark(b"key", b"payload"), "~39c686eed5d361b8");
        assert_ne!(mark(b"ab", b"c"), mark(b"a", b"bc"));
    }

    #[test]
    fn positions_outside_of_the_partition_are_told_apart() {
        let partition = partition("c", "t", 0);
        let kind = |next| Position::at(next).check_range(&partition, 5, 9).map_err(|error| error.kind());
        assert_eq!(kind(4), Err(SourceErrorKind::Expired));
        assert_eq!((kind(5), kind(9)), (Ok(()), Ok(())));
        assert_eq!(kind(10), Err(SourceErrorKind::Truncated));
    }
}
