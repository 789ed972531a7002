use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use outbox_core::{
    event::Sequence,
    projection::Applied,
    source::{Partition, SourcePosition},
};
use tokio::time::Instant;

/// What a projector is doing.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ProjectorStatus {
    /// Every partition it was ever given while it ran.
    pub partitions: BTreeMap<Partition, PartitionStatus>,
    /// Why the source does not deliver at the moment. The projector goes on asking it.
    pub source_error: Option<String>,
    /// Since then the source was asked for the lag of every partition that was read all the time: the one that was asked
    /// last had its turn before at this moment.
    pub(crate) lag_round: Option<Instant>,
}

impl ProjectorStatus {
    /// The sums over all partitions.
    #[must_use]
    pub fn totals(&self) -> Applied {
        let mut totals = Applied::default();
        for partition in self.partitions.values() {
            totals += partition.totals;
        }
        totals
    }

    /// How many records are still to come in all partitions that are read; `None` while there are none, or that is not
    /// known of each.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        let read = || self.partitions.values().filter(|p| p.state != PartitionState::Revoked);
        read().next()?;
        read().map(|p| p.lag).sum()
    }

    /// How old the oldest event is that has not taken effect, at least: the figure to alert on. Zero when nothing is left
    /// in any partition that is read.
    ///
    /// It is exact for events that were received. What the source says to be left and has not delivered, as while an
    /// operator pauses it, counts from when the source said so first. So the figure is right after a start and after a
    /// quiet night too, and grows for as long as the read model's store is away.
    ///
    /// `None`: nothing is read, or nothing is known to wait and of some partition that is not known, see
    /// [`PartitionStatus::lag`]. Alert on that too when it lasts.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let read = || self.partitions.values().filter(|p| p.state != PartitionState::Revoked);
        let oldest = read().filter_map(|p| p.waiting_since).min();
        match oldest {
            // The writer's clock may be ahead.
            Some(since) => Some((Utc::now() - since).to_std().unwrap_or_default()),
            None => (self.lag()? == 0).then_some(Duration::ZERO),
        }
    }

    /// Why something does not move on, one reason of possibly many; `None` when everything does.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.partitions.values().find_map(|p| p.error.clone()).or_else(|| self.source_error.clone())
    }

    /// Whether any partition waits for somebody to act, see [`PartitionState::needs_action`].
    #[must_use]
    pub fn needs_action(&self) -> bool {
        self.partitions.values().any(|p| p.state.needs_action())
    }
}

/// What a projector is doing with one partition.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PartitionStatus {
    /// Whether it moves on.
    pub state: PartitionState,
    /// Everything up to here took effect; `None`: nothing yet.
    pub position: Option<SourcePosition>,
    /// Events handled since the projector began to run.
    pub totals: Applied,
    /// Undecodable records passed over since the projector began to run.
    pub undecodable: usize,
    /// Records that became dead letters since the projector began to run, without [`Applied::held`].
    pub dead_letters: usize,
    /// How often somebody else had moved the position: more than now and then means that two own the partition.
    pub conflicts: usize,
    /// The sequence of the last event that took effect, or was a duplicate. Shows lag, decides nothing.
    pub last_sequence: Option<Sequence>,
    /// When the writer made that event.
    pub last_created_at: Option<DateTime<Utc>>,
    /// How many records were still to come when the source was last asked, see
    /// [`ProjectorBuilder::lag_every`](crate::ProjectorBuilder::lag_every); `None`: not known, because the source was
    /// not asked yet, cannot tell, failed, or did not answer within a second.
    pub lag: Option<u64>,
    /// When the source was asked for it; `None` after it was started anew.
    pub(crate) lag_asked: Option<Instant>,
    /// Since when something waits that has not taken effect: when the writer made the oldest event that was received, or
    /// else, when the source said that something is left. `None`: nothing is known to wait.
    pub waiting_since: Option<DateTime<Utc>>,
    /// Why the partition does not move on, with all causes; `None` while it does.
    pub error: Option<String>,
    /// When what failed is tried again.
    pub paused_until: Option<DateTime<Utc>>,
}

/// Whether a partition moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PartitionState {
    /// Its position is being looked up.
    #[default]
    Starting,
    /// It moves on.
    Running,
    /// The store cannot be reached, or the position was moved by somebody else: tried again soon.
    Retrying {
        /// How often it failed in a row.
        failures: u32,
        /// How long from the last failure to the next try.
        delay: Duration,
    },
    /// The projection rejects an event. It is tried again, but somebody has to act: mend the handler or the data.
    Rejected {
        /// How often it failed in a row.
        failures: u32,
        /// How long from the last failure to the next try.
        delay: Duration,
    },
    /// A record cannot be decoded; everything before it took effect. Nothing is tried again until somebody acts and
    /// runs a projector anew, see [`crate::Undecodables`].
    Undecodable,
    /// It belongs to somebody else now.
    Revoked,
}

impl PartitionState {
    /// Whether it does not go on before somebody acts.
    #[must_use]
    pub fn needs_action(self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::Undecodable)
    }
}
