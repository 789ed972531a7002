//! Names of partitions, and positions in them.

use outbox_core::source::{Partition, SourceError, SourceErrorKind, SourcePosition};

/// `cluster/topic/number`: tells apart partitions of the same name in different clusters.
pub(crate) fn partition(cluster: &str, topic: &str, number: i32) -> Partition {
    Partition::new(format!("{cluster}/{topic}/{number}"))
}

/// The position behind a record.
pub(crate) fn behind(offset: i64) -> SourcePosition {
    SourcePosition::from_text((offset + 1).to_string())
}

/// The offset that a position means.
pub(crate) fn parse(partition: &Partition, position: &SourcePosition) -> Result<i64, SourceError> {
    let text = position.as_text();
    text.parse().ok().filter(|offset| *offset >= 0).ok_or_else(|| {
        bad_position(format!("{text:?} is no position of {partition}: expected the offset of the next record"))
    })
}

/// Refuses a position that the partition does not have (any more): it would be read from another place in silence.
pub(crate) fn check_range(partition: &Partition, offset: i64, low: i64, high: i64) -> Result<(), SourceError> {
    if offset > high {
        return Err(bad_position(format!(
            "{partition} ends at {high}, before the position {offset}: was the topic created again or its end lost? \
             Decide where to start, for its records are other ones now"
        )));
    }
    if offset < low {
        return Err(bad_position(format!(
            "{partition} begins at {low}, behind the position {offset}: retention removed records that were not read; \
             rebuild, or decide to go on without them"
        )));
    }
    Ok(())
}

fn bad_position(message: String) -> SourceError {
    SourceError::new(SourceErrorKind::BadPosition, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_the_offset_of_the_next_record() {
        let partition = partition("c", "tutor-events", 3);
        assert_eq!(partition.as_str(), "c/tutor-events/3");
        assert_eq!(parse(&partition, &behind(41)).expect("position"), 42);
        for bad in ["", "-1", "x", "1.5"] {
            let refused = parse(&partition, &SourcePosition::from_text(bad)).expect_err(bad);
            assert_eq!(refused.kind(), SourceErrorKind::BadPosition);
        }
    }

    #[test]
    fn positions_outside_of_the_log_are_refused() {
        let partition = partition("c", "t", 0);
        for (offset, good) in [(4, false), (5, true), (9, true), (10, false)] {
            assert_eq!(check_range(&partition, offset, 5, 9).is_ok(), good, "{offset}");
        }
    }
}
