//! The keys of a lane whose events have to wait behind parked ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
};

/// Blocked keys, found by their hash and compared in full. Asking an empty one costs nothing.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct BlockedKeys(BTreeMap<u64, BTreeSet<Box<str>>>);

impl BlockedKeys {
    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    pub(super) fn contains<S: AsRef<str>>(&self, hash: u64, key: impl FnOnce() -> S) -> bool {
        !self.0.is_empty() && self.0.get(&hash).is_some_and(|keys| keys.contains(key().as_ref()))
    }

    pub(super) fn insert(&mut self, hash: u64, key: &str) {
        self.0.entry(hash).or_default().insert(key.into());
    }

    pub(super) fn remove(&mut self, hash: u64, key: &str) {
        if let Some(keys) = self.0.get_mut(&hash) {
            keys.remove(key);
            if keys.is_empty() {
                self.0.remove(&hash);
            }
        }
    }
}

/// The hash by which the machine knows a key, from the parts of its text.
pub(in crate::relay) fn key_hash<'p>(parts: impl IntoIterator<Item = &'p str>) -> u64 {
    let mut hash = DefaultHasher::new();
    for part in parts {
        hash.write(part.as_bytes());
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_the_same_hash_are_told_apart() {
        let mut keys = BlockedKeys::default();
        keys.insert(7, "a");
        assert!(keys.contains(7, || "a"));
        assert!(!keys.contains(7, || "b"));
        keys.insert(7, "b");
        keys.remove(7, "a");
        assert!(keys.contains(7, || "b") && !keys.contains(7, || "a"));
        keys.remove(7, "b");
        assert_eq!(keys.len(), 0);
    }

    #[test]
    fn the_hash_of_the_parts_is_that_of_the_text() {
        assert_eq!(key_hash(["Tutor", "/", "42"]), key_hash(["Tutor/42"]));
        assert_ne!(key_hash(["Tutor", "/", "42"]), key_hash(["Tutor/43"]));
    }
}
