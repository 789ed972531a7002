//! Steps at which a projector process kills itself. They lie around the source, the projection, its handler or store and
//! the dead letters, never inside them.

mod letters;
mod projection;
mod source;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rustix::process::{Signal, getpid, kill_process};

pub(crate) use self::{letters::MortalLetters, projection::MortalProjection, source::MortalSource};

/// A step of a projector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failpoint {
    AfterLookUp,
    AfterFetch,
    InEffect,
    BeforeCommit,
    AfterCommit,
    BeforeOffsetCommit,
    AfterOffsetCommit,
    BeforeLetter,
    AfterLetter,
}

impl Failpoint {
    pub(crate) const ALL: [Self; 9] = [
        Self::AfterLookUp,
        Self::AfterFetch,
        Self::InEffect,
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::BeforeOffsetCommit,
        Self::AfterOffsetCommit,
        Self::BeforeLetter,
        Self::AfterLetter,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AfterLookUp => "after look-up",
            Self::AfterFetch => "after fetch",
            Self::InEffect => "in effect",
            Self::BeforeCommit => "before commit",
            Self::AfterCommit => "after commit",
            Self::BeforeOffsetCommit => "before offset commit",
            Self::AfterOffsetCommit => "after offset commit",
            Self::BeforeLetter => "before letter",
            Self::AfterLetter => "after letter",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|failpoint| failpoint.name() == name)
    }

    /// At which passage to die: not at the first, where there is nothing yet that could be lost.
    fn passage(self) -> usize {
        match self {
            Self::AfterFetch | Self::AfterCommit | Self::BeforeCommit => 3,
            Self::InEffect => 5,
            _ => 1,
        }
    }
}

/// Kills its own process at one failpoint. Passages count once the process has had an effect, but for the look-up, which
/// comes before any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fuse(Arc<State>);

#[derive(Debug, Default)]
struct State {
    at: Option<Failpoint>,
    effective: AtomicBool,
    passages: AtomicUsize,
}

impl Fuse {
    /// Without a failpoint it never kills.
    pub(crate) fn at(at: Option<Failpoint>) -> Self {
        Self(Arc::new(State { at, ..State::default() }))
    }

    fn had_effect(&self) {
        self.0.effective.store(true, Ordering::Relaxed);
    }

    pub(crate) fn pass(&self, here: Failpoint) {
        let counts = here == Failpoint::AfterLookUp || self.0.effective.load(Ordering::Relaxed);
        if self.0.at == Some(here) && counts && self.0.passages.fetch_add(1, Ordering::Relaxed) + 1 == here.passage() {
            kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
            // Whatever is left of this thread's time, it does nothing more.
            loop {
                std::thread::park();
            }
        }
    }
}
