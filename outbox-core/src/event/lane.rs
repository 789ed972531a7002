use std::fmt;

use sha2::{Digest, Sha256};

/// How many lanes a log has: 1 to [`LaneCount::MAX`], frozen when the log is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneCount(u8);

impl LaneCount {
    /// The most lanes a log can have: their set is one 64-bit mask.
    pub const MAX: u8 = 64;

    /// Parses a count; `None` unless it is 1 to [`LaneCount::MAX`].
    #[must_use]
    pub fn new(count: u8) -> Option<Self> {
        (1..=Self::MAX).contains(&count).then_some(Self(count))
    }

    /// The count as a number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }

    /// The lane of a key: the first two bytes of its SHA-256, read big-endian, modulo the count. The same rule stands
    /// in SQL, so that other clients of the database agree.
    #[must_use]
    pub fn lane_of(self, key: &str) -> Lane {
        let hash = Sha256::digest(key.as_bytes());
        Lane((u16::from_be_bytes([hash[0], hash[1]]) % u16::from(self.0)) as u8)
    }
}

impl Default for LaneCount {
    /// 64.
    fn default() -> Self {
        Self(Self::MAX)
    }
}

/// One of a log's lanes, 0 to 63. All events of one ordering key share a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(u8);

impl Lane {
    /// Parses a lane number; `None` unless it is 0 to 63.
    #[must_use]
    pub fn new(lane: u8) -> Option<Self> {
        (lane < LaneCount::MAX).then_some(Self(lane))
    }

    /// The lane as a number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A set of lanes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LaneSet(u64);

impl LaneSet {
    /// No lane.
    pub const EMPTY: Self = Self(0);

    /// All lanes of a log.
    #[must_use]
    pub fn all(count: LaneCount) -> Self {
        Self(u64::MAX >> (64 - u32::from(count.get())))
    }

    /// The set whose mask this is: bit `n` for lane `n`.
    #[must_use]
    pub fn from_mask(mask: u64) -> Self {
        Self(mask)
    }

    /// Bit `n` is set when lane `n` is a member.
    #[must_use]
    pub fn mask(self) -> u64 {
        self.0
    }

    /// Whether the lane is a member.
    #[must_use]
    pub fn contains(self, lane: Lane) -> bool {
        self.0 & (1 << lane.get()) != 0
    }

    /// How many lanes are members.
    #[must_use]
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether no lane is a member.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members of either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The members of both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members that are not of the other.
    #[must_use]
    pub fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = Lane> {
        (0..LaneCount::MAX).filter(move |n| self.0 & (1 << n) != 0).map(Lane)
    }
}

impl FromIterator<Lane> for LaneSet {
    fn from_iter<I: IntoIterator<Item = Lane>>(lanes: I) -> Self {
        Self(lanes.into_iter().fold(0, |mask, lane| mask | (1 << lane.get())))
    }
}

impl fmt::Debug for LaneSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Lane::get)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_stable() {
        // Written to databases: these values may never change. sha256("Tutor/42") begins with daec.
        let count = LaneCount::default();
        let expected: Vec<u8> = ["Tutor/42", "", "Иван"].iter().map(|k| count.lane_of(k).get()).collect();
        assert_eq!(expected, GOLDEN);
    }

    const GOLDEN: [u8; 3] = [44, 48, 7];

    #[test]
    fn a_set_knows_its_members() {
        let all = LaneSet::all(LaneCount::default());
        assert_eq!(all.len(), 64);
        let three = LaneSet::all(LaneCount::new(3).expect("3 lanes"));
        assert_eq!(three.iter().map(Lane::get).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(three.iter().collect::<LaneSet>(), three);
        assert!(!three.contains(Lane::new(3).expect("lane 3")));
    }
}
