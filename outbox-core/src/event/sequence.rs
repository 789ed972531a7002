use std::fmt;

use uuid::Uuid;

/// The identity of one log, made when it is created. Sequences of different logs cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub Uuid);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Where an event stands in its log: `generation · 2^47 + position`.
///
/// Of two events of one ordering key the later one has the larger sequence; between keys it says nothing about time.
/// Sequences have gaps. The generation is raised when positions were lost and will be issued again, as after a
/// point-in-time restore, so that consumers do not take new events for old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sequence(u64);

impl Sequence {
    const POSITION_BITS: u32 = 47;

    /// The largest position: 2^47 − 1.
    pub const MAX_POSITION: u64 = (1 << Self::POSITION_BITS) - 1;

    /// Generation 0, position 0: below every sequence that a log gives.
    pub const ZERO: Self = Self(0);

    /// The sequence of a position; `None` when the position exceeds [`Sequence::MAX_POSITION`].
    #[must_use]
    pub fn new(generation: u16, position: u64) -> Option<Self> {
        (position <= Self::MAX_POSITION).then_some(Self((u64::from(generation) << Self::POSITION_BITS) | position))
    }

    /// Reads a sequence back from [`Sequence::get`]; `None` when it exceeds what [`Sequence::new`] can make.
    #[must_use]
    pub fn from_raw(raw: u64) -> Option<Self> {
        u16::try_from(raw >> Self::POSITION_BITS).is_ok().then_some(Self(raw))
    }

    /// The number carried in messages; it always fits a signed 64-bit integer.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// How often the log was re-anchored before this event.
    #[must_use]
    pub fn generation(self) -> u16 {
        (self.0 >> Self::POSITION_BITS) as u16
    }

    /// The position within the generation.
    #[must_use]
    pub fn position(self) -> u64 {
        self.0 & Self::MAX_POSITION
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which log an event came from and where it stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The log.
    pub log: LogId,
    /// The event's place in it.
    pub sequence: Sequence,
}
