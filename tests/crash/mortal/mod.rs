//! Steps at which a relay process kills itself. They lie around the log and the publisher, never inside them.

mod log;
mod publisher;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rustix::process::{Signal, getpid, kill_process};

pub(crate) use self::{log::MortalLog, publisher::MortalPublisher};

/// A step of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failpoint {
    AfterJoin,
    AfterRead,
    AfterEnqueue,
    AfterAck,
    BeforeCheckpoint,
    AfterCheckpoint,
    BeforePark,
    AfterPark,
    BeforeParkBehind,
    AfterParkBehind,
    BeforeRedriven,
    AfterRedriven,
    BeforeRelease,
    AfterRelease,
    AfterGaining,
    BeforeLeave,
    AfterLeave,
}

impl Failpoint {
    pub(crate) const ALL: [Self; 17] = [
        Self::AfterJoin,
        Self::AfterRead,
        Self::AfterEnqueue,
        Self::AfterAck,
        Self::BeforeCheckpoint,
        Self::AfterCheckpoint,
        Self::BeforePark,
        Self::AfterPark,
        Self::BeforeParkBehind,
        Self::AfterParkBehind,
        Self::BeforeRedriven,
        Self::AfterRedriven,
        Self::BeforeRelease,
        Self::AfterRelease,
        Self::AfterGaining,
        Self::BeforeLeave,
        Self::AfterLeave,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AfterJoin => "after join",
            Self::AfterRead => "after read",
            Self::AfterEnqueue => "after enqueue",
            Self::AfterAck => "after ack",
            Self::BeforeCheckpoint => "before checkpoint",
            Self::AfterCheckpoint => "after checkpoint",
            Self::BeforePark => "before park",
            Self::AfterPark => "after park",
            Self::BeforeParkBehind => "before park behind",
            Self::AfterParkBehind => "after park behind",
            Self::BeforeRedriven => "before redriven",
            Self::AfterRedriven => "after redriven",
            Self::BeforeRelease => "before release",
            Self::AfterRelease => "after release",
            Self::AfterGaining => "after gaining",
            Self::BeforeLeave => "before leave",
            Self::AfterLeave => "after leave",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|failpoint| failpoint.name() == name)
    }

    /// Whether a relay comes here before it can have recorded anything.
    fn comes_first(self) -> bool {
        matches!(self, Self::AfterJoin | Self::AfterGaining)
    }

    /// At which passage to die. Steps that come all the time are passed a few times: the first while there is a backlog
    /// and the window is full, the others when the relay keeps pace with the writers.
    fn passage(self) -> usize {
        match self {
            Self::AfterEnqueue | Self::AfterAck | Self::BeforeCheckpoint => 3,
            Self::AfterRead | Self::AfterCheckpoint => 8,
            _ => 1,
        }
    }
}

/// Kills its own process at one failpoint. Passages count once the process has recorded a checkpoint, so that there is
/// something for the successor to start from.
#[derive(Debug, Clone)]
pub(crate) struct Fuse(Arc<State>);

#[derive(Debug)]
struct State {
    at: Option<Failpoint>,
    recorded: AtomicBool,
    passages: AtomicUsize,
}

impl Fuse {
    /// Without a failpoint it never kills.
    pub(crate) fn at(at: Option<Failpoint>) -> Self {
        Self(Arc::new(State { at, recorded: AtomicBool::new(false), passages: AtomicUsize::new(0) }))
    }

    fn recorded(&self) {
        self.0.recorded.store(true, Ordering::Relaxed);
    }

    fn pass(&self, here: Failpoint) {
        let counts = self.0.at == Some(here) && (here.comes_first() || self.0.recorded.load(Ordering::Relaxed));
        if counts && self.0.passages.fetch_add(1, Ordering::Relaxed) + 1 == here.passage() {
            kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
            // Whatever is left of this thread's time, it does nothing more.
            loop {
                std::thread::park();
            }
        }
    }
}
