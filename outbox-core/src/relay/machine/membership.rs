//! Lanes that come, and lanes that go.

use tokio::time::Instant;

use super::{Machine, guard::Guard, pages::Body, tracks::Place};
use crate::{
    event::{Lane, LaneSet},
    log::{Track, lanes_of},
};

impl<B: Body> Machine<B> {
    /// Lanes that are the member's from now on. Nothing of them is read or sent until their blocked keys are known.
    pub(in crate::relay) fn gain(&mut self, tracks: Vec<Track>) {
        let lanes = lanes_of(&tracks);
        // Given back without our knowing, and free to be gained again.
        self.releasing.retain_mut(|place| {
            place.lanes = place.lanes.difference(lanes);
            !place.lanes.is_empty()
        });
        if Guard::KeysAreKnown.stands() {
            self.keys_unknown(lanes);
        }
        for lane in lanes.iter() {
            self.lanes[usize::from(lane.get())].begin_anew();
        }
        for track in tracks {
            self.tracks.add(Place::from(track), false);
        }
        self.want_due();
    }

    /// Whether what the log takes for the member's lanes is what they are with those just gained. Those being given back
    /// may be among them or not: the answer may have been lost that they are.
    pub(in crate::relay) fn agrees(&self, owned: LaneSet, gained: &[Track]) -> bool {
        let (gained, releasing) = (lanes_of(gained), self.releasing_lanes());
        let kept = self.lanes().union(gained);
        kept.difference(owned).is_empty()
            && owned.difference(kept.union(releasing)).is_empty()
            && gained.intersection(self.lanes()).is_empty()
    }

    /// So many lanes are to be given back in all. They send nothing from now on.
    pub(in crate::relay) fn give_back(&mut self, surplus: u32) {
        let surplus = surplus.saturating_sub(self.releasing_lanes().len());
        // Those chosen before first, then those that cost least to give back.
        let cost = |lane: &Lane| {
            let queue = self.queue(*lane);
            (!self.leaving.contains(*lane), !queue.is_quiet(), queue.len(), std::cmp::Reverse(*lane))
        };
        let mut lanes: Vec<Lane> = self.lanes().iter().collect();
        lanes.sort_by_cached_key(cost);
        let leaving = lanes.into_iter().take(surplus as usize).collect();
        self.ready = self.ready.union(self.leaving.difference(leaving));
        self.leaving = leaving;
    }

    /// The lanes to give back now, at their own places. Until [`Machine::released`] they stay in every checkpoint, and
    /// the same call is made again.
    pub(in crate::relay) fn next_release(&mut self, now: Instant) -> Option<Vec<Track>> {
        if self.releasing.is_empty() {
            let is_quiet = |lane: &Lane| self.queue(*lane).is_quiet() || !Guard::LanesAreQuiet.stands();
            let quiet: LaneSet = self.leaving.iter().filter(is_quiet).collect();
            if quiet.is_empty() {
                return None;
            }
            self.releasing = self.detach(quiet, now);
            for lane in quiet.iter() {
                self.lanes[usize::from(lane.get())].begin_anew();
            }
            self.leaving = self.leaving.difference(quiet);
            self.ready = self.ready.difference(quiet);
            self.keys_unwanted(quiet);
        }
        Some(self.releasing.iter().cloned().map(Place::into_track).collect())
    }

    /// Whether lanes that were being given back are no longer among those the log takes for the member's.
    pub(in crate::relay) fn has_released(&self, owned: LaneSet) -> bool {
        !self.releasing.is_empty() && self.releasing_lanes().intersection(owned).is_empty()
    }

    /// They are given back.
    pub(in crate::relay) fn released(&mut self) -> LaneSet {
        let lanes = self.releasing_lanes();
        self.releasing.clear();
        lanes
    }

    fn releasing_lanes(&self) -> LaneSet {
        self.releasing.iter().fold(LaneSet::EMPTY, |all, place| all.union(place.lanes))
    }

    /// Takes quiet lanes out of their tracks with all they have waiting, and says where each is done.
    pub(super) fn detach(&mut self, lanes: LaneSet, now: Instant) -> Vec<Place> {
        let queues = &self.lanes;
        let places = self.tracks.own_places(lanes, |lane| queues[usize::from(lane.get())].oldest_page());
        for lane in lanes.iter() {
            self.lanes[usize::from(lane.get())].forget(lane, &mut self.pages);
        }
        self.tracks.remove(lanes, &mut self.pages, now);
        places
    }
}
