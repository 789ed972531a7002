//! Who reads: named consumers, their members, and what a member owns.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Cursor, LogError, LogErrorKind};
use crate::event::LaneSet;

/// The name of a consumer: 1 to 100 of `a-z`, `0-9`, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerName(Arc<str>);

impl ConsumerName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`LogErrorKind::BadName`] when the text is not of the form above.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, LogError> {
        let text = text.as_ref();
        let good = (1..=100).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
        if good {
            Ok(Self(text.into()))
        } else {
            let message = format!("consumer name {text:?} is not 1 to 100 of a-z, 0-9, '-', '_' and '.'");
            Err(LogError::new(LogErrorKind::BadName, message))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ConsumerName {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        Self::parse(text)
    }
}

/// Where a consumer begins that was not known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StartAt {
    /// At the first event the log still has.
    #[default]
    Beginning,
    /// After what is committed at the time of registration.
    End,
    /// At the first position whose event was created at this time or later, by the writers' clocks. Events in front of
    /// it that were created later, or that commit later, may come too; none created since is left out.
    Time(DateTime<Utc>),
}

/// One running relay or projection, for as long as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemberId(pub Uuid);

impl MemberId {
    /// A fresh identity.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }
}

/// How much of a consumer a member asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Claim {
    /// A fair share of the lanes: as many as there are for each live member, rounded up.
    Share,
    /// All lanes or none: for a reader that keeps one place for the whole log. The member gets them when no other live
    /// member owns any, and nobody else gets any while it owns them.
    All,
}

/// Proof of membership, carried by every write of a member. The epoch decides, not the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Of which consumer.
    pub consumer: ConsumerName,
    /// Who.
    pub member: MemberId,
    /// Since which joining. No two memberships of a consumer have the same.
    pub epoch: u64,
}

/// Lanes that stand at one place of the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Track {
    /// Where to read on.
    pub cursor: Cursor,
    /// The lanes.
    pub lanes: LaneSet,
}

/// What a member was given when it joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// To be carried by its writes.
    pub fence: Fence,
    /// The lanes it owns, each in exactly one track, and no two tracks with the same cursor. Empty: others own them all
    /// for now; [`EventLog::renew`](super::EventLog::renew) brings some when they are free.
    pub tracks: Vec<Track>,
    /// An operator paused the consumer: own the lanes, do nothing.
    pub paused: bool,
}

impl Assignment {
    /// The lanes of all tracks.
    #[must_use]
    pub fn lanes(&self) -> LaneSet {
        lanes_of(&self.tracks)
    }
}

/// What a member learns when it renews its lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Renewal {
    /// Lanes that are the member's from now on, in addition to those it had.
    pub gained: Vec<Track>,
    /// All lanes that are the member's now. One that does not know of some of them, because an answer was lost, has to
    /// begin anew.
    pub owned: LaneSet,
    /// How many lanes it owns beyond its share: to be given back with
    /// [`EventLog::release`](super::EventLog::release) as soon as nothing of them is under way.
    pub surplus: u32,
    /// An operator paused the consumer: finish what is under way, keep the lanes, read and publish nothing.
    pub paused: bool,
    /// [`EventLog::due_parked`](super::EventLog::due_parked) has something for this member.
    pub redrive: bool,
}

/// The lanes of all these tracks.
#[must_use]
pub fn lanes_of(tracks: &[Track]) -> LaneSet {
    tracks.iter().fold(LaneSet::EMPTY, |all, track| all.union(track.lanes))
}
