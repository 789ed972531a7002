//! What is known of a step that failed when it comes again.

use std::{collections::HashMap, time::Duration};

use outbox_core::source::SourcePosition;
use tokio::time::Instant;

use super::{VersionedWrite, Written};

/// What the store said of a step's writes.
#[derive(Default)]
pub(super) struct Tried {
    /// Stored, stale or refused.
    fates: HashMap<Version, Written>,
    /// The write that made the step fail, if one did, where that step ends, and when it failed.
    blamed: Option<(Version, SourcePosition, Instant)>,
}

/// For so long what a store refused is taken for what it refuses.
const FRESH: Duration = Duration::from_secs(10);

/// A document's id and its version.
type Version = (String, u64);

impl Tried {
    /// What becomes of the writes of a step that ends at `to`, as far as the store does not have to be asked: when it is
    /// the step that failed, without the event that was blamed, because that was given up.
    ///
    /// When the event comes again it was not given up, and time has passed, as it has when its letter could not be kept for
    /// long: somebody may have mended the store. And where no event was blamed, nobody knows what happened to the store
    /// since.
    pub(super) fn fates(&mut self, writes: &[VersionedWrite], to: &SourcePosition) -> Vec<Option<Written>> {
        let goes_on = self.blamed.take().is_some_and(|(blamed, end, at)| {
            end == *to && at.elapsed() < FRESH && writes.iter().all(|write| version(write) != blamed)
        });
        if !goes_on {
            self.fates.retain(|_, fate| *fate == Written::Stored);
            return vec![None; writes.len()];
        }
        writes.iter().map(|write| self.fates.get(&version(write)).cloned()).collect()
    }

    /// Whether an earlier try stored it: then it is no duplicate if it is stale now.
    pub(super) fn stored(&self, write: &VersionedWrite) -> bool {
        self.fates.get(&version(write)) == Some(&Written::Stored)
    }

    /// Adds what became of writes of a step that failed.
    pub(super) fn add(&mut self, writes: &[VersionedWrite], fates: Vec<Option<Written>>) {
        for (write, fate) in writes.iter().zip(fates) {
            match fate {
                Some(fate @ (Written::Stored | Written::Refused(_))) => drop(self.fates.insert(version(write), fate)),
                // By an earlier try, maybe.
                Some(Written::Stale) => drop(self.fates.entry(version(write)).or_insert(Written::Stale)),
                Some(Written::Busy(_)) | None => {}
            }
        }
    }

    /// The write of which the step that ends at `to` failed.
    pub(super) fn blame(&mut self, write: &VersionedWrite, to: &SourcePosition) {
        self.blamed = Some((version(write), to.clone(), Instant::now()));
    }
}

fn version(write: &VersionedWrite) -> Version {
    (write.id.clone(), write.version)
}
