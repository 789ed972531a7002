//! Partitions that change hands at random, and often before the one who loses them hears of it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    source::{
        Batch, EventSource, Partition, SourceCapabilities, SourceError, SourceErrorKind, SourceEvent, SourcePosition,
        SourceRecord,
    },
};
use outbox_projector::ProjectorStatus;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::{Notify, watch};

use crate::running::Running;

/// So often a partition changes hands, lest two runners take it from each other for ever.
const MOVES: usize = 12;

/// Two members share these partitions.
#[derive(Clone)]
pub(super) struct Group(Arc<Shared>);

struct Shared {
    partitions: Vec<(Partition, Vec<ReceivedEvent>)>,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    random: StdRng,
    /// Of each partition.
    owner: Vec<usize>,
    committed: Vec<usize>,
    moves: usize,
}

impl Group {
    pub(super) fn new(partitions: Vec<Vec<ReceivedEvent>>, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0xff);
        let owner = partitions.iter().map(|_| random.random_range(0..2)).collect();
        let state = State { random, owner, committed: vec![0; partitions.len()], moves: 0 };
        let named = |(number, records)| (Partition::new(format!("random/{number}")), records);
        let partitions = partitions.into_iter().enumerate().map(named).collect();
        Self(Arc::new(Shared { partitions, state: Mutex::new(state), changed: Notify::new() }))
    }

    pub(super) fn member(&self, number: usize) -> Member {
        let reading = self.0.partitions.iter().map(|_| Hold::default()).collect();
        Member { group: self.clone(), number, reading }
    }

    /// Until each partition is applied to its end: one of the runners stands there, or has committed that.
    pub(super) async fn until_applied(&self, runners: &[Running; 2]) {
        let mut statuses = runners.each_ref().map(|running| running.status.clone());
        loop {
            let changed = self.0.changed.notified();
            if (0..self.0.partitions.len()).all(|index| self.is_applied(index, &statuses)) {
                return;
            }
            let [first, second] = &mut statuses;
            tokio::select! {
                () = changed => {}
                changed = first.changed() => changed.expect("it runs"),
                changed = second.changed() => changed.expect("it runs"),
            }
        }
    }

    fn is_applied(&self, index: usize, statuses: &[watch::Receiver<ProjectorStatus>]) -> bool {
        let (partition, records) = &self.0.partitions[index];
        // Where the projection keeps no position, one that is assigned anew shows none before something comes.
        self.lock().committed[index] == records.len()
            || statuses.iter().any(|status| {
                let status = status.borrow();
                let position = status.partitions.get(partition).and_then(|p| p.position.as_ref());
                position.is_some_and(|position| position.as_text() == records.len().to_string())
            })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, partition: &Partition) -> usize {
        self.0.partitions.iter().position(|(known, _)| known == partition).expect("a partition of the group")
    }
}

fn not_mine() -> SourceError {
    SourceError::new(SourceErrorKind::Revoked, "it is somebody else's")
}

/// One member's source.
pub(super) struct Member {
    group: Group,
    number: usize,
    /// Of each partition.
    reading: Vec<Hold>,
}

/// What a member believes of a partition.
#[derive(Debug, Clone, Copy, Default)]
struct Hold {
    held: bool,
    /// The next record; `None`: not started.
    next: Option<usize>,
    paused: bool,
}

impl Member {
    /// What comes next, if anything.
    fn turn(&mut self) -> Option<SourceEvent> {
        let group = self.group.clone();
        let mut state = group.lock();
        let count = group.0.partitions.len();
        if state.moves < MOVES && state.random.random_bool(0.15) {
            let moved = state.random.random_range(0..count);
            state.owner[moved] = 1 - state.owner[moved];
            state.moves += 1;
            group.0.changed.notify_waiters();
        }
        let first = state.random.random_range(0..count);
        for index in (0..count).map(|n| (first + n) % count) {
            let (partition, records) = &group.0.partitions[index];
            let (mine, hold) = (state.owner[index] == self.number, &mut self.reading[index]);
            // Often it hears late, and delivers meanwhile what is somebody else's.
            let late = state.random.random_bool(0.6);
            match (hold.held, mine) {
                (false, true) => {
                    *hold = Hold { held: true, ..Hold::default() };
                    return Some(SourceEvent::Assigned(vec![partition.clone()]));
                }
                (true, false) if !late => {
                    *hold = Hold::default();
                    return Some(SourceEvent::Revoked(vec![partition.clone()]));
                }
                (true, _) => {}
                (false, false) => continue,
            }
            if let Some(next) = hold.next.filter(|next| *next < records.len() && !hold.paused) {
                let end = (next + state.random.random_range(1..=9)).min(records.len());
                hold.next = Some(end);
                let events = records[next..end].iter().cloned().map(SourceRecord::event).collect();
                let position = SourcePosition::from_text(end.to_string());
                return Some(SourceEvent::Batch(Batch { partition: partition.clone(), records: events, position }));
            }
        }
        None
    }

    fn hold(&mut self, partition: &Partition) -> Result<&mut Hold, SourceError> {
        let hold = &mut self.reading[self.group.index(partition)];
        if hold.held { Ok(hold) } else { Err(not_mine()) }
    }
}

#[async_trait]
impl EventSource for Member {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::new(false)
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        let group = self.group.clone();
        loop {
            // Others get their turn between two batches. Before it, for what a turn brings must not be dropped.
            tokio::task::yield_now().await;
            let changed = group.0.changed.notified();
            if let Some(event) = self.turn() {
                return Ok(event);
            }
            // A member that hears late, or moves a partition, does so by chance: it tries again soon.
            let soon = tokio::time::sleep(Duration::from_millis(2));
            tokio::select! {
                () = changed => {}
                () = soon => {}
            }
        }
    }

    async fn start(&mut self, partition: &Partition, after: Option<&SourcePosition>) -> Result<(), SourceError> {
        let committed = self.group.lock().committed[self.group.index(partition)];
        let next = after.map_or(committed, |after| after.as_text().parse().expect("a position of ours"));
        self.hold(partition)?.next = Some(next);
        Ok(())
    }

    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError> {
        self.hold(partition)?;
        let index = self.group.index(partition);
        let mut state = self.group.lock();
        if state.owner[index] != self.number {
            // Told now; should it come back, it is assigned anew.
            self.reading[index] = Hold::default();
            return Err(not_mine());
        }
        state.committed[index] = position.as_text().parse().expect("a position of ours");
        self.group.0.changed.notify_waiters();
        Ok(())
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.hold(partition)?.paused = true;
        Ok(())
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.hold(partition)?.paused = false;
        Ok(())
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}
