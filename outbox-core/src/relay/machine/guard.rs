//! What keeps the relay's promises, by name, so that tests can leave out one at a time and see which promise is broken.

/// A condition without which something would go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::relay) enum Guard {
    /// A lane that failed starts again only when everything of it was reported.
    LanesDrain,
    /// Events of blocked keys are not sent.
    BlockedKeysWait,
    /// Nothing of a lane is read before its blocked keys are known.
    KeysAreKnown,
    /// Places pass only what is done.
    PlacesWait,
    /// Lanes are given back only when nothing of them is under way.
    LanesAreQuiet,
    /// Reading waits for room in the window.
    WindowIsBounded,
    /// A read is taken in only by a track that has no lanes but those asked for.
    ReadsAreMatched,
    /// What was refused together is sent again one by one.
    SuspectsGoAlone,
    /// What is sent alone stays alone until it is reported.
    IsolationLasts,
    /// A key of which something is redriven is not redriven a second time.
    RedrivesAreUnique,
    /// When a redriven event is refused again, what is behind it stays parked.
    RedrivesStayBehind,
}

impl Guard {
    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "only tests leave a guard out")]
    pub(super) const fn stands(self) -> bool {
        true
    }

    #[cfg(test)]
    pub(super) fn stands(self) -> bool {
        LEFT_OUT.get() != Some(self)
    }

    /// Without this guard on this thread.
    #[cfg(test)]
    pub(in crate::relay) fn without<T>(guard: Option<Self>, work: impl FnOnce() -> T) -> T {
        LEFT_OUT.set(guard);
        let done = work();
        LEFT_OUT.set(None);
        done
    }
}

#[cfg(test)]
std::thread_local! {
    static LEFT_OUT: std::cell::Cell<Option<Guard>> = const { std::cell::Cell::new(None) };
}
