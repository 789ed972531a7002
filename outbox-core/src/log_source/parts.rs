//! The partitions of a source that are its own, and how far each is.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::lease::tracks_of;
use crate::{
    event::{LaneCount, LaneSet},
    log::{Cursor, Page, Track},
    source::{Batch, Partition, SourcePosition, SourceRecord},
};

/// A cursor moves also when the events are of other lanes, or other clients of the database are busy; once in a while is
/// enough to keep the position of a partition without events fresh.
const QUIET: Duration = Duration::from_mins(1);

/// One partition: a lane, or all of them.
pub(super) struct Part {
    pub(super) partition: Partition,
    pub(super) lanes: LaneSet,
    /// Everything up to here took effect, as the log has it.
    pub(super) committed: Cursor,
    /// The same, as the caller said and the log was not told yet.
    pub(super) uncommitted: Option<Cursor>,
    pub(super) reading: Option<Reading>,
    pub(super) paused: bool,
    /// The caller was told that it is taken away.
    pub(super) leaving: bool,
}

/// A partition that delivers.
pub(super) struct Reading {
    pub(super) started: Cursor,
    /// What came up to here was handed out, or there was nothing.
    pub(super) cursor: Cursor,
    /// The last position that the caller was given.
    pub(super) told: Cursor,
    /// Since when the cursor is behind that.
    moved_at: Option<Instant>,
    /// A later place without events in between, of which the log was told.
    noted: Option<Cursor>,
    /// The highest position of the log known to be behind the cursor.
    pub(super) reached: Option<u64>,
    /// Nothing was left behind the cursor at the last look.
    pub(super) caught_up: bool,
}

/// What a look found for a partition that stood at `from`; void when it stands elsewhere by now.
pub(super) struct Found {
    from: Cursor,
    to: Cursor,
    reached: Option<u64>,
    batch: Batch,
}

impl Part {
    pub(super) fn new(partition: Partition, lanes: LaneSet, committed: Cursor) -> Self {
        Self { partition, lanes, committed, uncommitted: None, reading: None, paused: false, leaving: false }
    }

    /// Everything up to here took effect, as the caller said; where the caller knows of no event behind that, everything
    /// that was read.
    pub(super) fn done(&self) -> &Cursor {
        let done = self.uncommitted.as_ref().unwrap_or(&self.committed);
        let reading = self.reading.as_ref();
        let read = reading.filter(|reading| *done == reading.told || reading.noted.as_ref() == Some(done));
        read.map_or(done, |reading| &reading.cursor)
    }

    /// What the log does not know yet of [`Part::done`].
    pub(super) fn note_done(&mut self) -> Option<&Cursor> {
        let done = self.done().clone();
        if done == self.committed {
            return None;
        }
        if let Some(reading) = self.reading.as_mut().filter(|reading| reading.cursor == done) {
            reading.noted = Some(done.clone());
        }
        Some(self.uncommitted.insert(done))
    }

    fn active(&mut self) -> Option<&mut Reading> {
        let delivers = !self.paused && !self.leaving;
        self.reading.as_mut().filter(|_| delivers)
    }

    /// Accounts for what is handed out, unless the partition does not deliver, or not from there.
    pub(super) fn hand_out(&mut self, found: Found) -> Option<Batch> {
        let Found { from, to, reached, batch } = found;
        let reading = self.active().filter(|reading| reading.cursor == from)?;
        reading.moved_at = None;
        reading.reached = reading.reached.max(reached);
        reading.told = to.clone();
        reading.noted = None;
        reading.cursor = to;
        Some(batch)
    }
}

impl Found {
    pub(super) fn partition(&self) -> &Partition {
        &self.batch.partition
    }
}

impl Reading {
    pub(super) fn behind(cursor: Cursor) -> Self {
        Self {
            started: cursor.clone(),
            told: cursor.clone(),
            cursor,
            moved_at: None,
            noted: None,
            reached: None,
            caught_up: false,
        }
    }
}

/// What is to be read: the lanes of one place together.
pub(super) fn wanted(parts: &mut [Part]) -> Vec<Track> {
    let places = parts.iter_mut().filter_map(|part| {
        let lanes = part.lanes;
        part.active().map(|reading| (lanes, &reading.cursor))
    });
    tracks_of(places)
}

/// Takes the answer to a look in, each partition what is its own: those that stand elsewhere by now nothing.
pub(super) fn take_in(parts: &mut [Part], track: &Track, page: Page, found: &mut VecDeque<Found>) {
    let Page { events, next, caught_up } = page;
    let reached = events.iter().map(|event| event.origin.sequence.position()).max();
    let mut records: Vec<Vec<SourceRecord>> = parts.iter().map(|_| Vec::new()).collect();
    let mut part_of = vec![None; usize::from(LaneCount::MAX)];
    for (index, part) in parts.iter().enumerate() {
        part.lanes.iter().for_each(|lane| part_of[usize::from(lane.get())] = Some(index));
    }
    for event in events {
        if let Some(index) = part_of[usize::from(event.lane.get())] {
            records[index].push(SourceRecord::event(event));
        }
    }
    for (part, records) in parts.iter_mut().zip(records) {
        let (partition, is_in) = (part.partition.clone(), !part.lanes.intersection(track.lanes).is_empty());
        let Some(reading) = part.reading.as_mut().filter(|reading| is_in && reading.cursor == track.cursor) else {
            continue;
        };
        if records.is_empty() && next != track.cursor {
            reading.cursor = next.clone();
            reading.reached = reading.reached.max(reached);
            reading.moved_at.get_or_insert_with(Instant::now);
        }
        reading.caught_up = caught_up && records.is_empty();
        let is_stale = reading.moved_at.is_some_and(|at| at.elapsed() >= QUIET);
        if !records.is_empty() || is_stale {
            let batch = Batch { partition, records, position: SourcePosition::from_text(next.as_text()) };
            found.push_back(Found { from: reading.cursor.clone(), to: next.clone(), reached, batch });
        }
    }
}
