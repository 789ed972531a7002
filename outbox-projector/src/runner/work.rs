use outbox_core::{
    event::ReceivedEvent,
    source::{Batch, SourcePosition, SourceRecord, Undecodable},
};

use super::Undecodables;

/// A batch as it is to be applied.
pub(super) struct Work {
    pub(super) events: Vec<ReceivedEvent>,
    pub(super) end: End,
    /// Passed over with the events.
    pub(super) skipped: Vec<Undecodable>,
}

/// What follows the events.
pub(super) enum End {
    /// The position behind them, and behind the batch.
    Position(SourcePosition),
    /// A record that has to wait, and with it whatever came behind it in the batch.
    Hold(Undecodable),
}

impl Work {
    pub(super) fn of(batch: Batch, undecodables: Undecodables) -> Self {
        let mut events = Vec::with_capacity(batch.records.len());
        let mut skipped = Vec::new();
        for record in batch.records {
            match (record, undecodables) {
                (SourceRecord::Event(event), _) => events.push(event),
                (SourceRecord::Undecodable(record), Undecodables::Skip) => skipped.push(record),
                (SourceRecord::Undecodable(record), Undecodables::Hold) => {
                    return Self { events, end: End::Hold(record), skipped };
                }
            }
        }
        Self { events, end: End::Position(batch.position), skipped }
    }

    /// Nothing to apply, and the position stays.
    pub(super) fn is_nothing(&self) -> bool {
        self.events.is_empty() && matches!(self.end, End::Hold(_))
    }
}
