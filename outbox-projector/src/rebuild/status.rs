use super::Generation;

/// How far a rebuild is.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RebuildStatus {
    /// Which generation is built; `None` before that is known.
    pub generation: Option<Generation>,
    /// What is done at the moment.
    pub phase: RebuildPhase,
    /// Events applied since this run of the rebuild began.
    pub applied: usize,
    /// How many records are still to come, when the source can tell.
    pub behind: Option<u64>,
    /// Records that became dead letters since this run began: the new generation lacks them.
    pub dead_letters: usize,
    /// Why it does not move on, or cannot tell that it is near the end; `None` while neither is so.
    pub error: Option<String>,
}

/// What a rebuild does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RebuildPhase {
    /// The new generation is created.
    #[default]
    Preparing,
    /// Events are applied from the beginning.
    Building,
    /// The new generation becomes the live one.
    Swapping,
    /// The old generation is removed.
    Dropping,
    /// The new generation is live and the old one gone.
    Done,
}
