use std::{collections::VecDeque, time::Duration};

use outbox_core::source::SourcePosition;
use tokio::time::Instant;

use super::work::Work;

/// What is known of one assigned partition.
#[derive(Default)]
pub(super) struct Worker {
    pub(super) phase: Phase,
    /// Everything up to here took effect; see also [`beginning`].
    pub(super) position: Option<SourcePosition>,
    /// The first of these is being tried.
    pub(super) waiting: VecDeque<Work>,
    /// How often the first of `waiting`, or the start, failed in a row.
    pub(super) failures: u32,
    pub(super) retry_at: Option<Instant>,
    pub(super) paused: bool,
    pub(super) uncommitted: Option<SourcePosition>,
    pub(super) commit_at: Option<Instant>,
    batches_uncommitted: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    #[default]
    Starting,
    Running,
    /// An undecodable record waits for somebody to act.
    Held,
}

/// How long, and for how many batches, a commit that only serves retention may wait.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
const COMMIT_BATCHES: u32 = 100;

impl Worker {
    /// When there is something to do without the source saying anything.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.retry_at, self.commit_at].into_iter().flatten().min()
    }

    pub(super) fn done_up_to(&mut self, position: SourcePosition) {
        self.position = Some(position.clone());
        self.uncommitted = Some(position);
        self.batches_uncommitted += 1;
        self.commit_at.get_or_insert_with(|| Instant::now() + COMMIT_EVERY);
    }

    pub(super) fn wants_commit(&self, keeps_position: bool) -> bool {
        self.uncommitted.is_some() && (!keeps_position || self.batches_uncommitted >= COMMIT_BATCHES)
    }

    pub(super) fn committed(&mut self) {
        self.uncommitted = None;
        self.commit_at = None;
        self.batches_uncommitted = 0;
    }

    pub(super) fn commit_later(&mut self) {
        self.commit_at = Some(Instant::now() + COMMIT_EVERY);
        self.batches_uncommitted = 0;
    }

    /// Goes no further. `kept`: the events before the record took effect, so the projection has a position now.
    pub(super) fn hold(&mut self, kept: bool) {
        if kept {
            self.position.get_or_insert_with(beginning);
        }
        self.phase = Phase::Held;
        self.waiting.clear();
        self.retry_at = None;
    }
}

/// The position of a partition whose very first batch holds an undecodable record: the events before that were applied,
/// and the source has to begin where it began. No adapter has an empty position.
pub(super) fn beginning() -> SourcePosition {
    SourcePosition::from_text("")
}

pub(super) fn is_beginning(position: &SourcePosition) -> bool {
    position.as_text().is_empty()
}
