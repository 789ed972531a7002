//! Lanes that are stuck, and how the others pass them.
//!
//! The window bounds what is read and not done, so one lane that is stuck would fill it in the end and stop all. It is
//! put on a track of its own, at the place where it is done: what was read of it is dropped, and read again, piece by
//! piece, when its pause is over. When it has caught up, it joins the others.

use tokio::time::Instant;

use super::{Machine, pages::Body, tracks::TrackState};
use crate::event::{Lane, LaneSet};

/// After so many failures in a row a lane counts as stuck; a single one is no reason to read again.
const STUCK_AFTER: u32 = 3;

impl<B: Body> Machine<B> {
    pub(super) fn may_read(&self, track: &TrackState, now: Instant) -> bool {
        let paused = |lane: Lane| self.queue(lane).paused_until.is_some_and(|until| now < until);
        self.tracks.has_room(&self.rules)
            && track.lanes.intersection(self.parking.unknown).is_empty()
            && !(track.lagging && (!track.pages.is_empty() || track.lanes.iter().any(paused)))
    }

    /// Puts stuck lanes that keep others waiting on tracks of their own, and takes back in what flows again.
    pub(super) fn let_others_pass(&mut self, now: Instant) {
        if !self.tracks.is_full(&self.rules) && !self.tracks.list.iter().any(|track| track.lagging) {
            return;
        }
        self.flowing_again();
        let stuck: LaneSet = self.lanes().iter().filter(|lane| self.is_stuck(*lane)).collect();
        // With most lanes paused the destination is away, and nobody is kept waiting.
        if stuck.is_empty() || stuck.len() * 2 > self.lanes().len() {
            return;
        }
        while let Some(lanes) = self.tracks.list.iter().find_map(|track| self.in_the_way(track, stuck)) {
            for place in self.detach(lanes, now) {
                self.tracks.add(place, true);
            }
        }
    }

    /// The stuck lanes for which alone the oldest page of a track waits.
    fn in_the_way(&self, track: &TrackState, stuck: LaneSet) -> Option<LaneSet> {
        let full = self.tracks.is_full(&self.rules);
        let oldest = track.pages.front()?.id;
        let waits_for = |lane: &Lane| self.queue(*lane).oldest_page() == Some(oldest);
        let lanes: LaneSet = track.lanes.iter().filter(waits_for).collect();
        let others_wait = track.lagging && lanes != track.lanes;
        (!lanes.is_empty() && lanes.difference(stuck).is_empty() && (full || others_wait)).then_some(lanes)
    }

    fn is_stuck(&self, lane: Lane) -> bool {
        let queue = self.queue(lane);
        queue.attempts >= STUCK_AFTER && queue.paused_until.is_some() && queue.is_quiet()
    }

    fn flowing_again(&mut self) {
        let lanes = &self.lanes;
        let flows = |lane: Lane| {
            let queue = &lanes[usize::from(lane.get())];
            queue.attempts == 0 && queue.broken.is_none() && queue.paused_until.is_none()
        };
        for track in &mut self.tracks.list {
            let nothing_left = track.caught_up && track.pages.is_empty();
            track.lagging &= !(nothing_left || track.lanes.iter().all(flows));
        }
        self.join_tracks();
    }
}
