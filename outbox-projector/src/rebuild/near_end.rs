use std::{collections::BTreeSet, time::Duration};

use outbox_core::source::Partition;
use tokio::time::Instant;

use crate::{PartitionState, PartitionStatus, ProjectorStatus};

/// When a generation has seen enough to go live: of every partition that it was ever given it knows, from an answer that
/// is not old, that hardly anything is left.
///
/// Partitions are asked in turns, with pauses of nine times as long as an answer took. Where a round takes longer than
/// answers count, those of the last full round do: more will not be known, however long it waits.
pub(super) struct NearEnd {
    within: u64,
    reads: BTreeSet<Partition>,
    /// When a partition came or went last.
    since: Instant,
}

/// How long what the source said of a partition counts.
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
            && status.partitions.values().all(|partition| is_read(partition) && is_known(partition, status))
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
        let (partition, _) = status.partitions.iter().find(|(_, partition)| !is_known(partition, status))?;
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

fn is_known(partition: &PartitionStatus, status: &ProjectorStatus) -> bool {
    let Some(asked) = partition.lag_asked.filter(|_| partition.lag.is_some()) else { return false };
    asked.elapsed() <= FRESH || (is_asking(status) && status.lag_round.is_some_and(|round| asked >= round))
}

/// A round that stands still says nothing of what has come since.
fn is_asking(status: &ProjectorStatus) -> bool {
    status.partitions.values().filter_map(|partition| partition.lag_asked).any(|asked| asked.elapsed() <= FRESH)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// Two partitions at their ends, asked so long ago.
    fn asked(ago: [Duration; 2]) -> ProjectorStatus {
        let mut status = ProjectorStatus::default();
        for (n, ago) in ago.into_iter().enumerate() {
            let asked = Some(Instant::now() - ago);
            let state = PartitionState::Running;
            let partition = PartitionStatus { state, lag: Some(0), lag_asked: asked, ..PartitionStatus::default() };
            status.partitions.insert(Partition::new(n.to_string()), partition);
        }
        status
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_a_while_or_since_the_last_round() {
        const LONG: Duration = Duration::from_mins(3);
        const TOO_OLD: Duration = FRESH.saturating_add(Duration::from_millis(1));
        let mut end = NearEnd::new(0);
        assert!(!end.is_reached(&asked([Duration::ZERO; 2])), "none may come or go for a while");
        advance(LONG + LONG).await;
        assert!(end.is_reached(&asked([FRESH, Duration::ZERO])));
        assert!(!end.is_reached(&asked([TOO_OLD, Duration::ZERO])), "no round was measured");
        for (round, newest, counts) in [
            (LONG, Duration::ZERO, true),
            (LONG.saturating_sub(Duration::from_millis(1)), Duration::ZERO, false),
            (LONG, FRESH, true),
            (LONG, TOO_OLD, false),
        ] {
            let mut status = asked([LONG, newest]);
            status.lag_round = Some(Instant::now() - round);
            assert_eq!(end.is_reached(&status), counts, "a round of {round:?}, the newest answer {newest:?} ago");
        }
    }
}
