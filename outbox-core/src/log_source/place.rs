use std::sync::Arc;

use super::{Part, Settings};
use crate::{
    event::LaneSet,
    log::{LogIdentity, Track},
    source::Partition,
};

/// What the log's identity means to this source.
#[derive(Clone)]
pub(super) struct Place {
    name: Arc<str>,
    pub(super) lanes: LaneSet,
    /// Each lane is a partition.
    pub(super) is_shared: bool,
}

impl Place {
    pub(super) fn new(identity: &LogIdentity, settings: &Settings) -> Self {
        let name = format!("log/{}/{}", identity.id, settings.consumer);
        Self { name: name.into(), lanes: LaneSet::all(identity.lanes), is_shared: settings.is_shared() }
    }

    /// The partitions of these lanes: of each, or of all together, which then stand at one place.
    pub(super) fn parts(&self, tracks: &[Track]) -> Vec<Part> {
        if self.is_shared {
            let lanes = tracks.iter().flat_map(|track| track.lanes.iter().map(move |lane| (lane, track)));
            lanes
                .map(|(lane, track)| {
                    let partition = Partition::new(format!("{}/lane/{lane}", self.name));
                    Part::new(partition, LaneSet::from_iter([lane]), track.cursor.clone())
                })
                .collect()
        } else {
            let part = |track: &Track| Part::new(Partition::new(self.name.clone()), self.lanes, track.cursor.clone());
            tracks.first().map(part).into_iter().collect()
        }
    }
}
