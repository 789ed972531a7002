use std::{collections::BTreeSet, time::Duration};

use outbox_core::source::Partition;
use tokio::time::Instant;

use crate::{PartitionState, PartitionStatus, ProjectorStatus};

/// When a generation has seen enough to go live: of every partition that it was ever given it knows, from an answer that
/// is not old, that hardly anything is left.
pub(super) struct NearEnd {
    within: u64,
    reads: BTreeSet<Partition>,
    /// When a partition came or went last.
    since: Instant,
}

/// How long what the source said of a partition counts. Partitions are asked in turns.
const FRESH: Duration = Duration::from_secs(15);

/// How long no partition may have come or gone: they may come one by one, or another process that was taken for dead
/// may wake up, hold some for a moment, and leave.
const SETTLED: Duration = Duration::from_secs(3);

impl NearEnd {
    pub(super) fn new(within: u64) -> Self {
        Self { within, reads: BTreeSet::new(), since: Instant::now() }
    }

    /// Whether it is reached.
    pub(super) fn is_reached(&mut self, status: &ProjectorStatus) -> bool {
        self.follow(status);
        self.since.elapsed() >= SETTLED
            && !status.partitions.is_empty()
            && status.partitions.values().all(|partition| is_read(partition) && is_known(partition))
            && status.lag().is_some_and(|lag| lag <= self.within)
            && status.problem().is_none()
    }

    /// What keeps it from being told, however much is applied. `None` while there is nothing to worry about.
    pub(super) fn obstacle(&self, status: &ProjectorStatus) -> Option<String> {
        if let Some((partition, _)) = status.partitions.iter().find(|(_, partition)| !is_read(partition)) {
            return Some(format!(
                "partition {partition} is not ours any more; another process reads for this generation"
            ));
        }
        if self.since.elapsed() <= FRESH {
            return None;
        }
        if status.partitions.is_empty() {
            return Some(format!("the source has given no partition for {FRESH:?}"));
        }
        let (partition, _) = status.partitions.iter().find(|(_, partition)| !is_known(partition))?;
        Some(format!("the source has not said for {FRESH:?} how much is still to come in partition {partition}"))
    }

    fn follow(&mut self, status: &ProjectorStatus) {
        let read = || status.partitions.iter().filter(|(_, state)| is_read(state)).map(|(partition, _)| partition);
        if !read().eq(&self.reads) {
            self.reads = read().cloned().collect();
            self.since = Instant::now();
        }
    }
}

fn is_read(partition: &PartitionStatus) -> bool {
    partition.state != PartitionState::Revoked
}

fn is_known(partition: &PartitionStatus) -> bool {
    partition.lag.is_some() && partition.lag_asked.is_some_and(|asked| asked.elapsed() <= FRESH)
}
