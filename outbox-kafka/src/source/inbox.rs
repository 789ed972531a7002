//! What the polling thread received and the application has not taken yet, and which partitions may receive more.

mod assigned;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use outbox_core::source::{Partition, SourceError, SourceErrorKind, SourceEvent};
use rdkafka::{Message, message::BorrowedMessage};
use tokio::sync::Notify;

use self::assigned::Assigned;
use super::position::Position;
use crate::headers;

/// How large a batch may become.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) records: usize,
    /// Of keys and bodies. One record may be larger.
    pub(crate) bytes: usize,
    /// How long a record waits for others.
    pub(crate) wait: Duration,
}

/// A record as it came.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) offset: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) payload: Option<Bytes>,
    /// `None` when they cannot be read.
    pub(crate) headers: Option<Vec<(Arc<str>, Bytes)>>,
}

impl Raw {
    pub(crate) fn of(record: &BorrowedMessage<'_>) -> Self {
        Self {
            offset: record.offset(),
            key: record.key().map(Bytes::copy_from_slice),
            payload: record.payload().map(Bytes::copy_from_slice),
            headers: headers::from_kafka(record.headers()),
        }
    }

    fn bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.payload.as_ref().map_or(0, Bytes::len)
    }
}

/// Topics and numbers of partitions.
pub(crate) type Places = Vec<(Arc<str>, i32)>;

/// One assignment of a partition; a later one of the same partition is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) partition: Partition,
    pub(crate) topic: Arc<str>,
    pub(crate) number: i32,
    id: u64,
}

/// What the application takes.
#[derive(Debug)]
pub(crate) enum Taken {
    Event(SourceEvent),
    Failed(SourceError),
    Records(Assignment, Vec<Raw>),
    /// Whether the partition is still the one that was read up to here must be found out before more of it is taken;
    /// call [`Inbox::checked`] with the answer.
    Check(Assignment, Position),
    /// Nothing until there is news, or until then.
    Nothing(Option<Instant>),
}

/// Between the polling thread, which fills it, and the application, which empties it.
#[derive(Debug)]
pub(crate) struct Inbox {
    limits: Limits,
    state: Mutex<State>,
    /// Something to take.
    pub(crate) news: Notify,
    /// Something to pause or resume.
    pub(crate) upkeep: Notify,
    /// Something was paused or revoked.
    pub(crate) settled: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Result<SourceEvent, SourceError>>,
    assigned: Vec<Assigned>,
    /// Which partition is served next: they take turns.
    turn: usize,
    assignments: u64,
    over: bool,
}

impl Inbox {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), news: Notify::new(), upkeep: Notify::new(), settled: Notify::new() }
    }

    /// Partitions were assigned; they are paused.
    pub(crate) fn assign(&self, partitions: Vec<(Partition, Arc<str>, i32)>) {
        let mut state = self.lock();
        for (partition, topic, number) in &partitions {
            state.assigned.retain(|assigned| assigned.is.partition != *partition);
            state.assignments += 1;
            let id = state.assignments;
            let is = Assignment { partition: partition.clone(), topic: topic.clone(), number: *number, id };
            state.assigned.push(Assigned::new(is));
        }
        let names = partitions.into_iter().map(|(partition, ..)| partition).collect();
        state.events.push_back(Ok(SourceEvent::Assigned(names)));
        drop(state);
        self.news.notify_one();
    }

    /// Partitions were taken away; what was received of them belongs to somebody else.
    pub(crate) fn revoke(&self, partitions: Vec<Partition>) {
        let mut state = self.lock();
        state.assigned.retain(|assigned| !partitions.contains(&assigned.is.partition));
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

    /// The polling thread has ended.
    pub(crate) fn end(&self) {
        self.lock().over = true;
        self.news.notify_one();
        self.settled.notify_waiters();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// A record; those of partitions that are not started are dropped, since a start reads them again.
    pub(crate) fn push(&self, topic: &str, number: i32, record: Raw, now: Instant) {
        let mut state = self.lock();
        let found = state.assigned.iter_mut().find(|a| a.is.number == number && &*a.is.topic == topic);
        let Some(assigned) = found.filter(|assigned| assigned.is_started()) else { return };
        assigned.push(record, now);
        let full = !assigned.paused && assigned.should_pause(&self.limits);
        drop(state);
        self.news.notify_one();
        if full {
            self.upkeep.notify_one();
        }
    }

    /// The next thing for the application.
    pub(crate) fn take(&self, now: Instant) -> Taken {
        let mut state = self.lock();
        if let Some(event) = state.events.pop_front() {
            return event.map_or_else(Taken::Failed, Taken::Event);
        }
        let count = state.assigned.len();
        let first = state.turn;
        let next = (0..count).map(|n| (first + n) % count).find(|n| state.assigned[*n].is_ready(&self.limits, now));
        let Some(next) = next else {
            return Taken::Nothing(state.assigned.iter().filter_map(|a| a.ready_at(&self.limits)).min());
        };
        state.turn = next + 1;
        let assigned = &mut state.assigned[next];
        if let Some(position) = assigned.begin_check() {
            return Taken::Check(assigned.is.clone(), position);
        }
        let records = assigned.take(&self.limits);
        let resume = assigned.paused && !assigned.should_pause(&self.limits);
        let is = assigned.is.clone();
        drop(state);
        if resume {
            self.upkeep.notify_one();
        }
        Taken::Records(is, records)
    }

    /// The application was given everything up to here.
    pub(crate) fn delivered(&self, assignment: &Assignment, position: Position) {
        // If it was assigned anew meanwhile, the position is of no use.
        let _result = self.of(assignment, |assigned| assigned.delivered = Some(position));
    }

    /// The answer to a [`Taken::Check`]: the partition is the same, it is not, or (`None`) it has to be asked again.
    pub(crate) fn checked(&self, assignment: &Assignment, same: Option<bool>) {
        if same == Some(false) {
            self.start_anew(|is| is == assignment);
        } else {
            let _gone = self.of(assignment, |assigned| assigned.end_check(same.is_some()));
            self.news.notify_one();
        }
    }

    /// The topic was created again: what was received of it belongs to the old one, or nobody knows where in the new.
    pub(crate) fn recreated(&self, topic: &str) {
        self.start_anew(|is| &*is.topic == topic);
    }

    /// Takes these away and assigns them anew, for the application only: librdkafka keeps them.
    fn start_anew(&self, which: impl Fn(&Assignment) -> bool) {
        let mut state = self.lock();
        let State { assigned, assignments, events, .. } = &mut *state;
        let mut partitions = Vec::new();
        for assigned in assigned.iter_mut().filter(|assigned| which(&assigned.is)) {
            *assignments += 1;
            assigned.renew(*assignments);
            partitions.push(assigned.is.partition.clone());
        }
        if partitions.is_empty() {
            return;
        }
        events.push_back(Ok(SourceEvent::Revoked(partitions.clone())));
        events.push_back(Ok(SourceEvent::Assigned(partitions)));
        drop(state);
        self.upkeep.notify_one();
        self.news.notify_one();
        self.settled.notify_waiters();
    }

    /// What has to be paused and what resumed; the caller must do it.
    pub(crate) fn due(&self) -> (Places, Places) {
        let (mut pause, mut resume) = (Places::new(), Places::new());
        for assigned in &mut self.lock().assigned {
            let wanted = assigned.should_pause(&self.limits);
            if wanted != assigned.paused {
                let list = if wanted { &mut pause } else { &mut resume };
                list.push((assigned.is.topic.clone(), assigned.is.number));
                assigned.paused = wanted;
            }
        }
        (pause, resume)
    }

    pub(crate) fn find(&self, partition: &Partition) -> Result<Assignment, SourceError> {
        self.with(partition, |assigned| assigned.is.clone())
    }

    /// The partition, and the offset at which it was started.
    pub(crate) fn started(&self, partition: &Partition) -> Result<(Assignment, Option<i64>), SourceError> {
        self.with(partition, |assigned| (assigned.is.clone(), assigned.started))
    }

    /// Stops delivery and forgets what was received.
    pub(crate) fn stop(&self, partition: &Partition) -> Result<Assignment, SourceError> {
        let assignment = self.with(partition, Assigned::stop)?;
        self.upkeep.notify_one();
        Ok(assignment)
    }

    pub(crate) fn is_paused(&self, assignment: &Assignment) -> Result<bool, SourceError> {
        self.of(assignment, |assigned| assigned.paused)
    }

    /// Begins delivery behind this position, unless the partition was assigned anew since the `stop` that this belongs
    /// to.
    pub(crate) fn start(&self, assignment: &Assignment, position: Position, now: Instant) -> Result<(), SourceError> {
        self.of(assignment, |assigned| assigned.start(position, now))?;
        self.upkeep.notify_one();
        Ok(())
    }

    pub(crate) fn hold(&self, partition: &Partition, held: bool) -> Result<(), SourceError> {
        self.with(partition, |assigned| assigned.held = held)?;
        self.upkeep.notify_one();
        self.news.notify_one();
        Ok(())
    }

    /// The application told to commit this.
    pub(crate) fn told(&self, partition: &Partition, position: &Position) -> Result<Assignment, SourceError> {
        self.with(partition, |assigned| {
            assigned.told = Some(position.clone());
            assigned.is.clone()
        })
    }

    /// The broker has what was told.
    pub(crate) fn acknowledged(&self, assignment: &Assignment, position: &Position) {
        let forget = |assigned: &mut Assigned| assigned.told.take_if(|told| told == position).is_some();
        let _gone = self.of(assignment, forget);
    }

    /// What was told of these partitions and the broker does not have yet, as far as anybody knows.
    pub(crate) fn unacknowledged(&self, partitions: &[Partition]) -> Vec<(Assignment, Position)> {
        let state = self.lock();
        let of_these = state.assigned.iter().filter(|assigned| partitions.contains(&assigned.is.partition));
        of_these.filter_map(|assigned| Some((assigned.is.clone(), assigned.told.clone()?))).collect()
    }

    fn with<T>(&self, partition: &Partition, act: impl FnOnce(&mut Assigned) -> T) -> Result<T, SourceError> {
        let mut state = self.lock();
        let found = state.assigned.iter_mut().find(|assigned| assigned.is.partition == *partition);
        found.map(act).ok_or_else(|| revoked(partition))
    }

    fn of<T>(&self, assignment: &Assignment, act: impl FnOnce(&mut Assigned) -> T) -> Result<T, SourceError> {
        let mut state = self.lock();
        let found = state.assigned.iter_mut().find(|assigned| assigned.is == *assignment);
        found.map(act).ok_or_else(|| revoked(&assignment.partition))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn revoked(partition: &Partition) -> SourceError {
    SourceError::new(SourceErrorKind::Revoked, format!("{partition} is not assigned to this consumer (any more)"))
}
