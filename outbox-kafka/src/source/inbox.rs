//! What the polling task received and the application has not taken yet, and which partitions may receive more.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use outbox_core::source::{Partition, SourceError, SourceErrorKind, SourceEvent};
use tokio::sync::Notify;

/// A partition is paused when so many batches of it are waiting, and resumed at half of that: a partition that is resumed
/// has to wait for the fetch request under way, so there must be something left to work on.
const AHEAD: usize = 8;

/// A partition is paused at so many bytes, however few records they are.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// A record as it came.
pub(crate) struct Raw {
    pub(crate) offset: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) payload: Option<Bytes>,
    /// `None` when they cannot be read.
    pub(crate) headers: Option<Vec<(Arc<str>, Bytes)>>,
}

impl Raw {
    fn bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.payload.as_ref().map_or(0, Bytes::len)
    }
}

/// Topics and numbers of partitions.
pub(crate) type Places = Vec<(Arc<str>, i32)>;

/// What the application takes.
pub(crate) enum Taken {
    Event(SourceEvent),
    Records { partition: Partition, topic: Arc<str>, number: i32, records: Vec<Raw> },
}

/// Between the polling task, which fills it, and the application, which empties it.
pub(crate) struct Inbox {
    batch: usize,
    state: Mutex<State>,
    /// Something to take.
    pub(crate) news: Notify,
    /// Something to pause or resume.
    pub(crate) upkeep: Notify,
    /// Something was paused or revoked.
    pub(crate) settled: Notify,
}

#[derive(Default)]
struct State {
    events: VecDeque<Result<SourceEvent, SourceError>>,
    assigned: Vec<Assigned>,
    /// Which partition is served next: they take turns.
    turn: usize,
    assignments: u64,
    over: bool,
}

/// An assigned partition.
struct Assigned {
    /// Tells it from an earlier assignment of the same partition.
    assignment: u64,
    partition: Partition,
    topic: Arc<str>,
    number: i32,
    started: bool,
    held: bool,
    /// What librdkafka was told last.
    paused: bool,
    records: VecDeque<Raw>,
    bytes: usize,
}

impl Assigned {
    /// Between the two marks it stays as it is.
    fn should_pause(&self, batch: usize) -> bool {
        let full = self.records.len() >= AHEAD * batch || self.bytes >= MOST_BYTES;
        let roomy = self.records.len() <= AHEAD * batch / 2 && self.bytes <= MOST_BYTES / 2;
        !self.started || self.held || full || (self.paused && !roomy)
    }
}

impl Inbox {
    pub(crate) fn new(batch: usize) -> Self {
        let batch = batch.max(1);
        Self { batch, state: Mutex::default(), news: Notify::new(), upkeep: Notify::new(), settled: Notify::new() }
    }

    /// Partitions were assigned; they are paused.
    pub(crate) fn assign(&self, partitions: Vec<(Partition, Arc<str>, i32)>) {
        let mut state = self.lock();
        for (partition, topic, number) in &partitions {
            state.assigned.retain(|assigned| assigned.partition != *partition);
            state.assignments += 1;
            let assignment = state.assignments;
            state.assigned.push(Assigned {
                assignment,
                partition: partition.clone(),
                topic: topic.clone(),
                number: *number,
                started: false,
                held: false,
                paused: true,
                records: VecDeque::new(),
                bytes: 0,
            });
        }
        let names = partitions.into_iter().map(|(partition, ..)| partition).collect();
        state.events.push_back(Ok(SourceEvent::Assigned(names)));
        drop(state);
        self.news.notify_one();
    }

    /// Partitions were taken away; what was received of them belongs to somebody else.
    pub(crate) fn revoke(&self, partitions: Vec<Partition>) {
        let mut state = self.lock();
        state.assigned.retain(|assigned| !partitions.contains(&assigned.partition));
        state.events.push_back(Ok(SourceEvent::Revoked(partitions)));
        drop(state);
        self.news.notify_one();
        self.settled.notify_waiters();
    }

    /// Something the application has to know.
    pub(crate) fn fail(&self, error: SourceError) {
        self.lock().events.push_back(Err(error));
        self.news.notify_one();
    }

    /// The polling task has ended.
    pub(crate) fn end(&self) {
        self.lock().over = true;
        self.news.notify_one();
        self.settled.notify_waiters();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// A record; those of partitions that are not started are dropped, since a start reads them again.
    pub(crate) fn push(&self, topic: &str, number: i32, record: Raw) {
        let batch = self.batch;
        let mut state = self.lock();
        let found = state.assigned.iter_mut().find(|a| a.number == number && &*a.topic == topic);
        let Some(assigned) = found.filter(|assigned| assigned.started) else { return };
        assigned.bytes += record.bytes();
        assigned.records.push_back(record);
        let full = !assigned.paused && assigned.should_pause(batch);
        drop(state);
        self.news.notify_one();
        if full {
            self.upkeep.notify_one();
        }
    }

    /// The next thing for the application.
    pub(crate) fn take(&self) -> Option<Result<Taken, SourceError>> {
        let batch = self.batch;
        let mut state = self.lock();
        if let Some(event) = state.events.pop_front() {
            return Some(event.map(Taken::Event));
        }
        let count = state.assigned.len();
        let first = state.turn;
        let next = (0..count).map(|n| (first + n) % count).find(|n| {
            let assigned = &state.assigned[*n];
            assigned.started && !assigned.held && !assigned.records.is_empty()
        })?;
        state.turn = next + 1;
        let assigned = &mut state.assigned[next];
        let many = assigned.records.len().min(batch);
        let records: Vec<Raw> = assigned.records.drain(..many).collect();
        assigned.bytes -= records.iter().map(Raw::bytes).sum::<usize>();
        let resume = assigned.paused && !assigned.should_pause(batch);
        let (partition, topic, number) = (assigned.partition.clone(), assigned.topic.clone(), assigned.number);
        drop(state);
        if resume {
            self.upkeep.notify_one();
        }
        Some(Ok(Taken::Records { partition, topic, number, records }))
    }

    /// What has to be paused and what resumed; the caller must do it.
    pub(crate) fn due(&self) -> (Places, Places) {
        let batch = self.batch;
        let (mut pause, mut resume) = (Places::new(), Places::new());
        for assigned in &mut self.lock().assigned {
            let wanted = assigned.should_pause(batch);
            if wanted != assigned.paused {
                let list = if wanted { &mut pause } else { &mut resume };
                list.push((assigned.topic.clone(), assigned.number));
                assigned.paused = wanted;
            }
        }
        (pause, resume)
    }

    /// Topic and number of an assigned partition.
    pub(crate) fn find(&self, partition: &Partition) -> Result<(Arc<str>, i32), SourceError> {
        self.with(partition, |assigned| (assigned.topic.clone(), assigned.number))
    }

    /// Stops delivery and forgets what was received. Returns which assignment of the partition it was.
    pub(crate) fn stop(&self, partition: &Partition) -> Result<u64, SourceError> {
        let assignment = self.with(partition, |assigned| {
            assigned.started = false;
            assigned.records.clear();
            assigned.bytes = 0;
            assigned.assignment
        })?;
        self.upkeep.notify_one();
        Ok(assignment)
    }

    pub(crate) fn is_paused(&self, partition: &Partition) -> Result<bool, SourceError> {
        self.with(partition, |assigned| assigned.paused)
    }

    /// Begins delivery, unless the partition was assigned anew since the `stop` that this belongs to.
    pub(crate) fn start(&self, partition: &Partition, assignment: u64) -> Result<(), SourceError> {
        let same = self.with(partition, |assigned| {
            assigned.started |= assigned.assignment == assignment;
            assigned.started
        })?;
        if !same {
            return Err(revoked(partition));
        }
        self.upkeep.notify_one();
        Ok(())
    }

    pub(crate) fn hold(&self, partition: &Partition, held: bool) -> Result<(), SourceError> {
        self.with(partition, |assigned| assigned.held = held)?;
        self.upkeep.notify_one();
        self.news.notify_one();
        Ok(())
    }

    fn with<T>(&self, partition: &Partition, act: impl FnOnce(&mut Assigned) -> T) -> Result<T, SourceError> {
        let mut state = self.lock();
        let found = state.assigned.iter_mut().find(|assigned| assigned.partition == *partition);
        found.map(act).ok_or_else(|| revoked(partition))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn revoked(partition: &Partition) -> SourceError {
    SourceError::new(SourceErrorKind::Revoked, format!("{partition} is not assigned to this consumer (any more)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(offset: i64) -> Raw {
        Raw { offset, key: None, payload: None, headers: None }
    }

    fn inbox(batch: usize, partitions: i32) -> (Inbox, Vec<Partition>) {
        let inbox = Inbox::new(batch);
        let names: Vec<Partition> = (0..partitions).map(|n| Partition::new(format!("c/t/{n}"))).collect();
        inbox.assign(names.iter().zip(0..).map(|(p, n)| (p.clone(), "t".into(), n)).collect());
        assert!(matches!(inbox.take(), Some(Ok(Taken::Event(SourceEvent::Assigned(_))))));
        (inbox, names)
    }

    fn begin(inbox: &Inbox, partition: &Partition) {
        let assignment = inbox.stop(partition).expect("assigned");
        inbox.start(partition, assignment).expect("the same assignment");
    }

    fn offsets(inbox: &Inbox) -> Option<(i32, Vec<i64>)> {
        match inbox.take()?.expect("no error") {
            Taken::Records { number, records, .. } => Some((number, records.iter().map(|r| r.offset).collect())),
            Taken::Event(event) => panic!("{event:?}"),
        }
    }

    #[test]
    fn nothing_is_delivered_before_the_start() {
        let (inbox, names) = inbox(2, 1);
        inbox.push("t", 0, raw(7));
        assert!(offsets(&inbox).is_none());
        assert_eq!(inbox.due(), (vec![], vec![]), "it was assigned paused");
        begin(&inbox, &names[0]);
        assert_eq!(inbox.due(), (vec![], vec![("t".into(), 0)]));
        inbox.push("t", 0, raw(0));
        assert_eq!(offsets(&inbox), Some((0, vec![0])));
    }

    #[test]
    fn a_full_partition_is_paused_and_resumed_at_half() {
        let (inbox, names) = inbox(4, 1);
        begin(&inbox, &names[0]);
        let _resumed = inbox.due();
        for offset in 0..32 {
            inbox.push("t", 0, raw(offset));
        }
        assert_eq!(inbox.due(), (vec![("t".into(), 0)], vec![]));
        for batch in 0..8 {
            assert_eq!(offsets(&inbox), Some((0, (4 * batch..4 * batch + 4).collect())));
            let resumed = if batch == 3 { vec![("t".into(), 0)] } else { vec![] };
            assert_eq!(inbox.due(), (vec![], resumed), "after batch {batch}");
        }
    }

    #[test]
    fn partitions_take_turns() {
        let (inbox, names) = inbox(1, 2);
        for name in &names {
            begin(&inbox, name);
        }
        for offset in 0..2 {
            inbox.push("t", 0, raw(offset));
            inbox.push("t", 1, raw(offset));
        }
        let order: Vec<_> = std::iter::from_fn(|| offsets(&inbox)).collect();
        assert_eq!(order, [(0, vec![0]), (1, vec![0]), (0, vec![1]), (1, vec![1])]);
    }

    #[test]
    fn what_was_received_of_a_revoked_partition_is_not_delivered() {
        let (inbox, names) = inbox(1, 1);
        begin(&inbox, &names[0]);
        inbox.push("t", 0, raw(0));
        inbox.revoke(names.clone());
        assert!(matches!(inbox.take(), Some(Ok(Taken::Event(SourceEvent::Revoked(p)))) if p == names));
        assert!(inbox.take().is_none());
        assert_eq!(inbox.stop(&names[0]).expect_err("revoked").kind(), SourceErrorKind::Revoked);
    }

    #[test]
    fn a_start_does_not_pass_to_a_later_assignment() {
        let (inbox, names) = inbox(1, 1);
        let assignment = inbox.stop(&names[0]).expect("assigned");
        inbox.revoke(names.clone());
        inbox.assign(vec![(names[0].clone(), "t".into(), 0)]);
        assert_eq!(inbox.start(&names[0], assignment).expect_err("moved on").kind(), SourceErrorKind::Revoked);
    }

    #[test]
    fn a_held_partition_keeps_its_records() {
        let (inbox, names) = inbox(4, 1);
        begin(&inbox, &names[0]);
        inbox.push("t", 0, raw(0));
        inbox.hold(&names[0], true).expect("hold");
        assert!(offsets(&inbox).is_none());
        inbox.hold(&names[0], false).expect("release");
        assert_eq!(offsets(&inbox), Some((0, vec![0])));
    }
}
