//! What may never happen, by name.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Invariant {
    /// When faults have ended, every event is delivered, parked or discarded; with the cause healed, none stays parked.
    NothingIsLost,
    /// An event is first written after all earlier ones of its key that nobody discarded.
    FirstDeliveriesAreInOrder,
    /// The same where an earlier one is parked.
    ParkedKeysKeepOrder,
    /// A membership that is over changes nothing in the log.
    FencedRelaysHaveNoEffect,
    /// A recorded place never lies behind an event of its lane that is neither acknowledged nor parked nor discarded.
    CheckpointsCoverWhatIsDone,
    /// What a membership leaves to be repeated is within its window; nothing comes twice otherwise, but for failures
    /// whose outcome was unknown.
    DuplicatesAreBounded,
    /// Once a lane is given back nothing of it is sent, and nothing of it is under way.
    NothingIsSentAfterRelease,
    /// Only what was refused by itself is parked as failed.
    InnocentsAreNeverParked,
    /// What was refused together with others is sent with nothing else of its lane under way.
    SuspectsAreSentAlone,
    /// From every state a run without further faults comes to rest.
    RunsEnd,
    NothingPanics,
}

/// That it happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Violation {
    pub(super) invariant: Invariant,
    pub(super) what: String,
}

pub(super) type Checked<T = ()> = Result<T, Violation>;

impl Invariant {
    pub(super) fn broken<T>(self, what: impl Into<String>) -> Checked<T> {
        Err(Violation { invariant: self, what: what.into() })
    }

    pub(super) fn holds(self, yes: bool, what: impl FnOnce() -> String) -> Checked {
        if yes { Ok(()) } else { self.broken(what()) }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}
