//! Where the member's lanes stand: what was read of each, and how far it is done.
//!
//! Lanes that are read together form a track. Each track has a list of pages; those at its front that are done move the
//! places of their lanes. A page may be of some of the track's lanes only, since tracks that meet are joined whatever
//! they still have to do, and lanes may leave.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{
    Due, Rules,
    guard::Guard,
    pages::{Body, PageId, Pages},
};
use crate::{
    event::{Lane, LaneSet},
    log::{Cursor, Track},
};

#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Tracks {
    pub(super) list: Vec<TrackState>,
    /// Events read and not yet covered by the places, and their bytes.
    window_events: usize,
    window_bytes: usize,
    unrecorded: Option<Unrecorded>,
    /// Events of checkpoints that are being recorded.
    recording: usize,
}

#[derive(Debug, Clone, Hash)]
pub(super) struct TrackState {
    /// Where to read on.
    pub(super) read: Cursor,
    pub(super) lanes: LaneSet,
    /// The last read found the end.
    pub(super) caught_up: bool,
    /// Its lanes were stuck: it is read piece by piece until they flow again.
    pub(super) lagging: bool,
    pub(super) pages: VecDeque<TrackPage>,
    places: Vec<Place>,
    /// The highest position read.
    position: Option<u64>,
}

#[derive(Debug, Clone, Hash)]
pub(super) struct TrackPage {
    pub(super) id: PageId,
    pub(super) lanes: LaneSet,
    pub(super) next: Cursor,
    pub(super) position: Option<u64>,
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// Everything up to the cursor is done in these lanes.
#[derive(Debug, Clone, Hash)]
pub(super) struct Place {
    pub(super) cursor: Cursor,
    pub(super) lanes: LaneSet,
    /// Unknown until a page was done.
    position: Option<u64>,
}

/// What became done since the last checkpoint.
#[derive(Debug, Clone, Copy, Hash)]
struct Unrecorded {
    events: usize,
    since: Instant,
}

impl Tracks {
    pub(super) fn lanes(&self) -> LaneSet {
        self.list.iter().fold(LaneSet::EMPTY, |all, track| all.union(track.lanes))
    }

    pub(super) fn has_room(&self, rules: &Rules) -> bool {
        let done = self.recording + self.unrecorded.map_or(0, |waiting| waiting.events);
        let has_room = self.window_events + done < rules.window && self.window_bytes < rules.window_bytes;
        has_room || !Guard::WindowIsBounded.stands()
    }

    /// No room, whatever checkpoints are recorded.
    pub(super) fn is_full(&self, rules: &Rules) -> bool {
        self.window_events >= rules.window || self.window_bytes >= rules.window_bytes
    }

    /// Whether everything of a lane was read that was in the log when it came.
    pub(super) fn has_caught_up(&self, lane: Lane) -> bool {
        self.list.iter().any(|track| track.caught_up && track.lanes.contains(lane))
    }

    /// Each lane with the position up to which it is done; 0 when it has passed nothing yet.
    pub(super) fn done(&self) -> Vec<(Lane, u64)> {
        let places = self.list.iter().flat_map(|track| &track.places);
        let mut done: Vec<_> = places
            .flat_map(|place| place.lanes.iter().map(|lane| (lane, place.position.unwrap_or_default())))
            .collect();
        done.sort_unstable();
        done
    }

    /// Lanes that begin at this place.
    pub(super) fn add(&mut self, place: Place, lagging: bool) {
        self.list.push(TrackState {
            read: place.cursor.clone(),
            lanes: place.lanes,
            caught_up: false,
            lagging,
            pages: VecDeque::new(),
            position: place.position,
            places: vec![place],
        });
    }

    /// The track that a read from this place answers. Lanes may have left it in the meantime, but none may have come.
    pub(super) fn answered(&mut self, asked: &Track) -> Option<&mut TrackState> {
        let answers = |track: &&mut TrackState| {
            let asked_for = track.lanes.difference(asked.lanes).is_empty() || !Guard::ReadsAreMatched.stands();
            track.read == asked.cursor && !track.lanes.is_empty() && asked_for
        };
        self.list.iter_mut().find(answers)
    }

    pub(super) fn count_read(&mut self, events: usize, bytes: usize) {
        self.window_events += events;
        self.window_bytes += bytes;
    }

    /// Moves places over the pages at the front that are done.
    pub(super) fn advance<B: Body>(&mut self, pages: &mut Pages<B>, now: Instant) {
        for track in &mut self.list {
            while let Some(page) = track.pages.front()
                && (pages.is_done(page.id) || !Guard::PlacesWait.stands())
            {
                let Some(page) = track.pages.pop_front() else { break };
                pages.remove(page.id);
                self.window_events -= page.events;
                self.window_bytes -= page.bytes;
                let (events, since) = match self.unrecorded {
                    // The clock of a checkpoint runs from the first event it covers.
                    Some(waiting) if waiting.events > 0 || page.events == 0 => (waiting.events, waiting.since),
                    _ => (0, now),
                };
                self.unrecorded = Some(Unrecorded { events: events + page.events, since });
                track.pass(page);
            }
        }
    }

    /// Makes one of tracks that are read from one place. `joins` says which tracks may be joined.
    pub(super) fn join_equal(&mut self, joins: impl Fn(&TrackState) -> bool) {
        let mut at = 0;
        while at < self.list.len() {
            let mut other = at + 1;
            while other < self.list.len() {
                let (a, b) = (&self.list[at], &self.list[other]);
                if a.read == b.read && joins(a) && joins(b) {
                    let b = self.list.swap_remove(other);
                    self.list[at].join(b);
                } else {
                    other += 1;
                }
            }
            at += 1;
        }
    }

    /// Where each of these lanes is done itself, which may be further than its track as a whole. `oldest` tells the page
    /// of a lane's first undone event.
    pub(super) fn own_places(&self, lanes: LaneSet, oldest: impl Fn(Lane) -> Option<PageId>) -> Vec<Place> {
        let mut places = Vec::new();
        for track in &self.list {
            for lane in track.lanes.intersection(lanes).iter() {
                let Some(place) = track.places.iter().find(|place| place.lanes.contains(lane)) else { continue };
                let mut place = Place { lanes: LaneSet::from_iter([lane]), ..place.clone() };
                for page in track.pages.iter().filter(|page| page.lanes.contains(lane)) {
                    if oldest(lane) == Some(page.id) {
                        break;
                    }
                    place.cursor = page.next.clone();
                    place.position = page.position.max(place.position);
                }
                join_place(&mut places, place);
            }
        }
        places
    }

    /// Takes lanes out. None of their events may count as undone any more.
    pub(super) fn remove<B: Body>(&mut self, lanes: LaneSet, pages: &mut Pages<B>, now: Instant) {
        for track in &mut self.list {
            track.lanes = track.lanes.difference(lanes);
            for place in &mut track.places {
                place.lanes = place.lanes.difference(lanes);
            }
            track.places.retain(|place| !place.lanes.is_empty());
            for page in &mut track.pages {
                page.lanes = page.lanes.difference(lanes);
            }
            if track.lanes.is_empty() {
                for page in track.pages.drain(..) {
                    pages.remove(page.id);
                    self.window_events -= page.events;
                    self.window_bytes -= page.bytes;
                }
            }
        }
        self.list.retain(|track| !track.lanes.is_empty());
        self.advance(pages, now);
    }

    /// When a checkpoint has to be written, if there is anything new to write.
    pub(super) fn checkpoint_at(&self, rules: &Rules) -> Option<Instant> {
        let waiting = self.unrecorded?;
        let wait = match waiting.events {
            0 => rules.idle_checkpoint_every,
            // What is not recorded takes room, and reading should not have to wait for it.
            n if n >= rules.checkpoint_events.min(rules.window / 2) => Duration::ZERO,
            _ => rules.checkpoint_every,
        };
        Some(waiting.since + wait)
    }

    /// The places of all lanes and of `others`, if there is anything new to write.
    pub(super) fn take_checkpoint(&mut self, others: &[Place]) -> Option<Due> {
        let waiting = self.unrecorded.take()?;
        self.recording += waiting.events;
        let mut places: Vec<Place> = Vec::new();
        for place in self.list.iter().flat_map(|track| &track.places).chain(others) {
            join_place(&mut places, place.clone());
        }
        // Lanes that passed nothing yet may be anywhere, unless they are known to lag.
        let stuck_at_the_start =
            self.list.iter().any(|track| track.lagging && track.places.iter().any(Place::is_unknown));
        let lowest = places.iter().filter_map(|place| place.position).min().unwrap_or_default();
        let position = if stuck_at_the_start { 0 } else { lowest };
        Some(Due { tracks: places.into_iter().map(Place::into_track).collect(), position, events: waiting.events })
    }

    pub(super) fn checkpoint_recorded(&mut self, due: &Due) {
        self.recording -= due.events;
    }

    /// A checkpoint was not recorded: what it covered waits again.
    pub(super) fn return_checkpoint(&mut self, due: &Due, now: Instant) {
        self.recording -= due.events;
        let since = self.unrecorded.map_or(now, |waiting| waiting.since);
        let events = self.unrecorded.map_or(0, |waiting| waiting.events) + due.events;
        self.unrecorded = Some(Unrecorded { events, since });
    }
}

impl TrackState {
    pub(super) fn read_on(&mut self, page: TrackPage) {
        self.read = page.next.clone();
        self.pages.push_back(page);
    }

    /// The highest position read, with this one.
    pub(super) fn reach(&mut self, position: Option<u64>) -> Option<u64> {
        self.position = self.position.max(position);
        self.position
    }

    fn pass(&mut self, page: TrackPage) {
        if let [place] = &mut self.places[..]
            && place.lanes == page.lanes
        {
            place.cursor = page.next;
            place.position = page.position;
            return;
        }
        for place in &mut self.places {
            place.lanes = place.lanes.difference(page.lanes);
        }
        self.places.retain(|place| !place.lanes.is_empty());
        if !page.lanes.is_empty() {
            let TrackPage { next: cursor, lanes, position, .. } = page;
            join_place(&mut self.places, Place { cursor, lanes, position });
        }
    }

    fn join(&mut self, mut other: Self) {
        // A long list in front would keep the other's places back.
        if other.pages.len() < self.pages.len() {
            std::mem::swap(&mut self.pages, &mut other.pages);
        }
        self.pages.append(&mut other.pages);
        self.lanes = self.lanes.union(other.lanes);
        self.caught_up &= other.caught_up;
        self.position = self.position.max(other.position);
        for place in other.places {
            join_place(&mut self.places, place);
        }
    }
}

impl Place {
    fn is_unknown(&self) -> bool {
        self.position.is_none()
    }

    pub(super) fn into_track(self) -> Track {
        Track { cursor: self.cursor, lanes: self.lanes }
    }
}

impl From<Track> for Place {
    fn from(track: Track) -> Self {
        Self { cursor: track.cursor, lanes: track.lanes, position: None }
    }
}

fn join_place(places: &mut Vec<Place>, place: Place) {
    match places.iter_mut().find(|other| other.cursor == place.cursor) {
        Some(other) => {
            other.lanes = other.lanes.union(place.lanes);
            other.position = other.position.max(place.position);
        }
        None => places.push(place),
    }
}
