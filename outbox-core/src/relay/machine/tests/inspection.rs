//! What the simulation sees of a machine.

use std::hash::{Hash, Hasher};

use super::*;

/// Equal for machines that do the same from now on, if chance plays no part in it.
impl<B: Hash> Hash for Machine<B> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            rules: _,
            pages,
            tracks,
            lanes,
            ready,
            leaving,
            releasing,
            parking,
            in_flight,
            next_batch,
            random: _,
        } = self;
        (pages, tracks, lanes, (ready, leaving, releasing), parking, in_flight, next_batch).hash(state);
    }
}

impl<B> Machine<B> {
    /// Lanes that let the others pass.
    pub(in crate::relay) fn lagging(&self) -> LaneSet {
        let lagging = self.tracks.list.iter().filter(|track| track.lagging);
        lagging.fold(LaneSet::EMPTY, |all, track| all.union(track.lanes))
    }
}
