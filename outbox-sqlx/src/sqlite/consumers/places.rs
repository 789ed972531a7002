//! Which lanes stand where.

use std::collections::BTreeMap;

use outbox_core::{
    event::{Lane, LaneSet},
    log::{Cursor, Fence, LogError, Track},
};

use super::super::{cursor::Place, reader::State};
use crate::refusals::fenced;

/// The positions of lanes: everything up to and with it is done. Each lane is at one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Places(BTreeMap<u64, LaneSet>);

impl Places {
    pub(super) fn of(lanes: LaneSet, position: u64) -> Self {
        let mut places = Self::default();
        places.put(lanes, position);
        places
    }

    /// What a member says about lanes, each of which it has to name once.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`](outbox_core::log::LogErrorKind::Fenced) when a lane is named twice, and
    /// [`LogErrorKind::BadCursor`](outbox_core::log::LogErrorKind::BadCursor) when a place is not of this log.
    pub(super) fn named_by(fence: &Fence, tracks: &[Track], state: &State) -> Result<Self, LogError> {
        let (mut places, mut named) = (Self::default(), LaneSet::EMPTY);
        for track in tracks {
            if !track.lanes.intersection(named).is_empty() {
                return Err(fenced(fence));
            }
            named = named.union(track.lanes);
            places.put(track.lanes, Place::parse(&track.cursor)?.within(state)?);
        }
        Ok(places)
    }

    /// Moves lanes to a position.
    pub(super) fn put(&mut self, lanes: LaneSet, position: u64) {
        self.0.values_mut().for_each(|there| *there = there.difference(lanes));
        self.0.retain(|_, there| !there.is_empty());
        if !lanes.is_empty() {
            let there = self.0.entry(position).or_default();
            *there = there.union(lanes);
        }
    }

    /// Moves lanes to where they are in `other`.
    pub(super) fn put_all(&mut self, other: &Self) {
        for (position, lanes) in other.iter() {
            self.put(lanes, position);
        }
    }

    /// Those of some lanes.
    pub(super) fn only(&self, lanes: LaneSet) -> Self {
        let within = self.iter().map(|(position, there)| (position, there.intersection(lanes)));
        Self(within.filter(|(_, there)| !there.is_empty()).collect())
    }

    /// With none beyond this position.
    pub(super) fn at_most(&self, position: u64) -> Self {
        let mut places = Self::default();
        self.iter().for_each(|(at, lanes)| places.put(lanes, at.min(position)));
        places
    }

    pub(super) fn of_lane(&self, lane: Lane) -> Option<u64> {
        self.iter().find(|(_, lanes)| lanes.contains(lane)).map(|(position, _)| position)
    }

    pub(super) fn lanes(&self) -> LaneSet {
        self.0.values().fold(LaneSet::EMPTY, |all, lanes| all.union(*lanes))
    }

    pub(super) fn lowest(&self) -> Option<u64> {
        self.0.keys().next().copied()
    }

    /// From the lowest to the highest.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, LaneSet)> {
        self.0.iter().map(|(position, lanes)| (*position, *lanes))
    }

    pub(super) fn to_tracks(&self, state: &State) -> Vec<Track> {
        self.iter().map(|(position, lanes)| Track { cursor: cursor(position, state), lanes }).collect()
    }
}

/// As text, for keeping.
pub(super) fn cursor(position: u64, state: &State) -> Cursor {
    Place::at(position, state).to_cursor()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(mask: u64) -> LaneSet {
        LaneSet::from_mask(mask)
    }

    #[test]
    fn a_lane_is_at_one_place() {
        let mut places = Places::of(lanes(0b1111), 5);
        places.put(lanes(0b0011), 9);
        places.put(lanes(0b0110), 2);
        let expected = [(2, lanes(0b0110)), (5, lanes(0b1000)), (9, lanes(0b0001))];
        assert_eq!(places.iter().collect::<Vec<_>>(), expected);
        assert_eq!((places.lowest(), places.lanes()), (Some(2), lanes(0b1111)));
        assert_eq!(places.only(lanes(0b1001)).iter().collect::<Vec<_>>(), [(5, lanes(0b1000)), (9, lanes(0b0001))]);
        let cut = [(2, lanes(0b0110)), (4, lanes(0b1001))];
        assert_eq!(places.at_most(4).iter().collect::<Vec<_>>(), cut);
        let mut moved = Places::of(lanes(0b1), 1);
        moved.put_all(&places);
        assert_eq!(moved, places);
    }
}
