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

/// How long what the source said of a partition counts.
const FRESH: Duration = Duration::from_secs(15);

/// Or so much for each partition, where that is longer: they are asked in turns.
const FRESH_EACH: Duration = Duration::from_secs(1);

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
            && status.partitions.values().all(|partition| is_read(partition) && is_known(partition, fresh(status)))
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
        let fresh = fresh(status);
        if self.since.elapsed() <= fresh {
            return None;
        }
        if status.partitions.is_empty() {
            return Some(format!("the source has given no partition for {fresh:?}"));
        }
        let (partition, _) = status.partitions.iter().find(|(_, partition)| !is_known(partition, fresh))?;
        Some(format!("the source has not said for {fresh:?} how much is still to come in partition {partition}"))
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

fn is_known(partition: &PartitionStatus, fresh: Duration) -> bool {
    partition.lag.is_some() && partition.lag_asked.is_some_and(|asked| asked.elapsed() <= fresh)
}

fn fresh(status: &ProjectorStatus) -> Duration {
    let partitions = u32::try_from(status.partitions.len()).unwrap_or(u32::MAX);
    FRESH.max(FRESH_EACH.saturating_mul(partitions))
}
