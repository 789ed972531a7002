//! What a replay did.

use outbox_core::projection::Applied;
use uuid::Uuid;

use super::Series;

/// What a replay did, or would have done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReplayReport {
    /// First the letters that cannot be decoded, then one entry for each key in the order of their first letters. Behind
    /// these come keys that only turned out when their letters could be decoded, and those that have only letters which
    /// are not open.
    pub keys: Vec<ReplayedKey>,
}

/// What became of the letters of one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReplayedKey {
    /// The key; `None` when the letter cannot be decoded.
    pub series: Option<Series>,
    /// The letter, when it was replayed by itself or cannot be decoded.
    pub letter: Option<Uuid>,
    /// What became of the letters that are done: their events had an effect, are ignored by the handler, or had their
    /// effect before. Letters that were given and are not open count as duplicates.
    pub done: Applied,
    /// The ids of those letters in order, without any that were not open. Unless it was a dry run, nothing is left to be
    /// done for them: a place of your own may delete them.
    pub done_letters: Vec<Uuid>,
    /// How many letters are still there.
    pub left: usize,
    /// Why the first of those is.
    pub error: Option<String>,
}

impl ReplayReport {
    /// The sums over all keys.
    #[must_use]
    pub fn totals(&self) -> Applied {
        let mut totals = Applied::default();
        for key in &self.keys {
            totals += key.done;
        }
        totals
    }

    /// How many letters are still there.
    #[must_use]
    pub fn left(&self) -> usize {
        self.keys.iter().map(|key| key.left).sum()
    }
}
