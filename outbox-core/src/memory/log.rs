//! A log in memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    clock::Clock,
    consumers::{Consumer, fenced},
    lock,
};
use crate::{
    event::{Event, LaneCount, LaneSet, LogId, NewEvent, Origin, RecordedEvent, Sequence},
    log::{
        Assignment, Claim, ConsumerName, Cursor, EventLog, Fence, LogCapabilities, LogError, LogErrorKind, LogIdentity,
        MemberId, Page, Park, Parked, ParkedEvent, Progress, Redriven, Renewal, Republished, StartAt, Track, lanes_of,
    },
    outbox::{AppendError, AppendErrorKind, Outbox, Receipt},
    profile::Profile,
    wake::Wake,
};

/// A log that lives as long as its last handle. Cloning is cheap and yields another handle on the same log.
///
/// Positions are assigned at commit, so commit order is position order and writers never wait for each other. Leases
/// and retries run on tokio's clock and follow it when a test pauses it.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) identity: LogIdentity,
    profile: Profile,
    wake: Wake,
    pub(super) clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    /// The event at index `i` has position `removed + i + 1`.
    pub(super) events: VecDeque<RecordedEvent>,
    /// How many events retention has removed.
    pub(super) removed: usize,
    /// Of the events to come.
    pub(super) generation: u16,
    pub(super) consumers: BTreeMap<ConsumerName, Consumer>,
    /// Of the last joining of any consumer.
    epoch: u64,
}

impl Default for MemoryLog {
    /// 64 lanes and the default profile.
    fn default() -> Self {
        Self::new(LaneCount::default(), Profile::default())
    }
}

impl MemoryLog {
    /// A fresh, empty log.
    #[must_use]
    pub fn new(lanes: LaneCount, profile: Profile) -> Self {
        let identity = LogIdentity { id: LogId(Uuid::now_v7()), lanes, generation: 0 };
        let (events, consumers) = (VecDeque::new(), BTreeMap::new());
        let state = Mutex::new(State { events, removed: 0, generation: 0, consumers, epoch: 0 });
        let (wake, clock) = (Wake::default(), Clock::start());
        Self { shared: Arc::new(Shared { identity, profile, wake, clock, state }) }
    }

    /// Begins a transaction. Dropping it rolls it back.
    #[must_use = "a transaction that is dropped is rolled back"]
    pub fn begin(&self) -> MemoryTx {
        MemoryTx { log: self.shared.clone(), events: Vec::new() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// `None` for what is no cursor of this log, or lies beyond its end.
    fn position_of(&self, cursor: &Cursor, state: &State) -> Result<usize, LogError> {
        let parse = || {
            let (position, log) = cursor.as_text().split_once('@')?;
            let position: usize = position.parse().ok()?;
            let mine = Uuid::parse_str(log).ok()? == self.shared.identity.id.0;
            (mine && position <= state.head()).then_some(position)
        };
        parse().ok_or_else(|| {
            let message = format!("cursor {:?} is not of log {}", cursor.as_text(), self.shared.identity.id);
            LogError::new(LogErrorKind::BadCursor, message)
        })
    }

    fn cursor_at(&self, position: usize) -> Cursor {
        Cursor::from_text(format!("{position}@{}", self.shared.identity.id))
    }
}

/// An open transaction of a [`MemoryLog`]. Dropping it rolls it back.
#[derive(Debug)]
#[must_use = "a transaction that is dropped is rolled back"]
pub struct MemoryTx {
    log: Arc<Shared>,
    events: Vec<Event>,
}

impl MemoryTx {
    /// Makes the appended events part of the log, behind everything committed before.
    ///
    /// # Cancellation
    /// The first poll does it all.
    #[expect(clippy::unused_async, reason = "reads like the transactions of a database")]
    pub async fn commit(self) {
        let Shared { identity, state, .. } = &*self.log;
        let mut state = lock(state);
        for event in self.events {
            let position = state.head() as u64 + 1;
            // A log of 2^47 events does not fit into memory.
            let Some(sequence) = Sequence::new(state.generation, position) else { return };
            let lane = identity.lanes.lane_of(&event.lane_key());
            state.events.push_back(RecordedEvent { origin: Origin { log: identity.id, sequence }, lane, event });
        }
    }
}

#[async_trait]
impl Outbox for MemoryLog {
    type Tx<'t> = MemoryTx;

    async fn append(&self, tx: &mut Self::Tx<'_>, events: &[NewEvent]) -> Result<Receipt, AppendError> {
        if !Arc::ptr_eq(&tx.log, &self.shared) {
            let message = "the transaction is of another log; begin it on the log that is appended to";
            return Err(AppendError::new(AppendErrorKind::Incompatible, message));
        }
        for event in events {
            self.shared.profile.check(event)?;
        }
        tx.events.extend(events.iter().map(|event| event.event().clone()));
        Ok(Receipt::new(events.len(), self.shared.wake.clone()))
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    fn capabilities(&self) -> LogCapabilities {
        LogCapabilities::full().with_durable(false)
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        Ok(LogIdentity { generation: self.state().generation, ..self.shared.identity })
    }

    async fn register(&self, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
        let mut state = self.state();
        let place = match start {
            StartAt::Beginning => 0,
            StartAt::End => state.head(),
            StartAt::Time(time) => {
                let before = state.events.iter().take_while(|recorded| recorded.event.created_at < time);
                state.removed + before.count()
            }
        };
        let (clock, lanes) = (self.shared.clock, self.shared.identity.lanes);
        state.consumers.entry(consumer.clone()).or_insert_with(|| Consumer::new(clock, place, lanes));
        Ok(())
    }

    async fn join(
        &self,
        consumer: &ConsumerName,
        member: MemberId,
        claim: Claim,
        lease: Duration,
    ) -> Result<Assignment, LogError> {
        let mut state = self.state();
        let epoch = state.epoch + 1;
        let known = state.known(consumer)?;
        let lanes = known.join(member, epoch, claim, lease);
        let fence = Fence { consumer: consumer.clone(), member, epoch };
        let assignment = Assignment { fence, tracks: self.tracks(&known.tracks(lanes)), paused: known.paused };
        state.epoch = epoch;
        Ok(assignment)
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<Renewal, LogError> {
        let mut state = self.state();
        let known = state.of(fence)?;
        let plan = known.renew(fence, lease)?;
        let lanes = known.member(fence)?.lanes;
        Ok(Renewal {
            gained: self.tracks(&known.tracks(plan.take)),
            owned: lanes,
            surplus: plan.surplus,
            paused: known.paused,
            redrive: !known.due(lanes, 1).is_empty(),
        })
    }

    async fn release(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        let mut state = self.state();
        let places = self.places(tracks, &state)?;
        let known = state.of(fence)?;
        let member = known.member(fence)?;
        let given = lanes_of(tracks);
        if !given.difference(member.lanes).is_empty() {
            return Err(fenced(fence));
        }
        member.lanes = member.lanes.difference(given);
        known.move_to(&places);
        Ok(())
    }

    async fn leave(&self, fence: &Fence) -> Result<(), LogError> {
        let mut state = self.state();
        let known = state.of(fence)?;
        known.member(fence)?;
        known.expel(fence.member);
        Ok(())
    }

    async fn read(&self, tracks: &[Track], limit: usize) -> Result<Vec<Page>, LogError> {
        let state = self.state();
        tracks.iter().map(|track| self.page(&state, track, limit)).collect()
    }

    async fn checkpoint(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        let mut state = self.state();
        let places = self.places(tracks, &state)?;
        let known = state.of(fence)?;
        if known.member(fence)?.lanes != lanes_of(tracks) {
            return Err(fenced(fence));
        }
        known.move_to(&places);
        Ok(())
    }

    async fn park(&self, fence: &Fence, events: &[Park]) -> Result<Vec<Parked>, LogError> {
        let mut state = self.state();
        let State { events: recorded, removed, consumers, .. } = &mut *state;
        let known = consumers.get_mut(&fence.consumer).ok_or_else(|| fenced(fence))?;
        known.park(fence, events, |sequence| event_at(recorded, *removed, sequence))
    }

    async fn blocked_keys(&self, fence: &Fence) -> Result<Vec<String>, LogError> {
        let mut state = self.state();
        let known = state.of(fence)?;
        let lanes = known.member(fence)?.lanes;
        Ok(known.blocked_keys(lanes).into_iter().collect())
    }

    async fn due_parked(&self, fence: &Fence, limit: usize) -> Result<Vec<ParkedEvent>, LogError> {
        let mut state = self.state();
        let known = state.of(fence)?;
        let lanes = known.member(fence)?.lanes;
        Ok(known.attempt(lanes, limit))
    }

    async fn redriven(&self, fence: &Fence, events: &[Republished]) -> Result<Vec<Redriven>, LogError> {
        self.state().of(fence)?.redriven(fence, events)
    }

    async fn progress(&self, consumer: &ConsumerName) -> Result<Progress, LogError> {
        let mut state = self.state();
        let head = state.head() as u64;
        let known = state.known(consumer)?;
        let tracks = known.tracks(LaneSet::all(self.shared.identity.lanes));
        let position = tracks.iter().map(|(place, _)| *place as u64).min().unwrap_or_default();
        Ok(Progress { tracks: self.tracks(&tracks), position, head })
    }

    fn wake(&self) -> &Wake {
        &self.shared.wake
    }
}

impl MemoryLog {
    fn page(&self, state: &State, track: &Track, limit: usize) -> Result<Page, LogError> {
        let mut position = self.position_of(&track.cursor, state)?.max(state.removed);
        let mut events = Vec::new();
        for recorded in state.events.range(position - state.removed..) {
            if events.len() == limit {
                break;
            }
            if track.lanes.contains(recorded.lane) {
                events.push(recorded.clone());
            }
            position += 1;
        }
        Ok(Page { events, next: self.cursor_at(position), caught_up: position == state.head() })
    }

    fn places(&self, tracks: &[Track], state: &State) -> Result<Vec<(usize, LaneSet)>, LogError> {
        tracks.iter().map(|track| Ok((self.position_of(&track.cursor, state)?, track.lanes))).collect()
    }

    fn tracks(&self, places: &[(usize, LaneSet)]) -> Vec<Track> {
        places.iter().map(|(place, lanes)| Track { cursor: self.cursor_at(*place), lanes: *lanes }).collect()
    }
}

impl State {
    pub(super) fn head(&self) -> usize {
        self.removed + self.events.len()
    }

    pub(super) fn event(&self, sequence: Sequence) -> Option<&RecordedEvent> {
        event_at(&self.events, self.removed, sequence)
    }

    pub(super) fn known(&mut self, consumer: &ConsumerName) -> Result<&mut Consumer, LogError> {
        self.consumers.get_mut(consumer).ok_or_else(|| {
            let message = format!("consumer {consumer} was never registered; register it first");
            LogError::new(LogErrorKind::UnknownConsumer, message)
        })
    }

    /// The consumer of a fence; one that was dropped has no members.
    fn of(&mut self, fence: &Fence) -> Result<&mut Consumer, LogError> {
        self.consumers.get_mut(&fence.consumer).ok_or_else(|| fenced(fence))
    }
}

fn event_at(events: &VecDeque<RecordedEvent>, removed: usize, sequence: Sequence) -> Option<&RecordedEvent> {
    let index = usize::try_from(sequence.position()).ok()?.checked_sub(removed + 1)?;
    events.get(index).filter(|recorded| recorded.origin.sequence == sequence)
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        log_source::LogSource,
        testing::{outbox_and_log::LogHarness, source::SourceHarness},
    };

    struct Harness(MemoryLog);

    impl Harness {
        #[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
        async fn fresh() -> Self {
            Self(MemoryLog::default())
        }
    }

    #[async_trait]
    impl LogHarness for Harness {
        type Log = MemoryLog;

        fn log(&self) -> &MemoryLog {
            &self.0
        }

        async fn open_again(&self) -> MemoryLog {
            self.0.clone()
        }

        async fn begin(&self) -> MemoryTx {
            self.0.begin()
        }

        async fn commit(&self, tx: MemoryTx) {
            tx.commit().await;
        }

        async fn rollback(&self, tx: MemoryTx) {
            drop(tx);
        }
    }

    crate::outbox_log_suite!(conformance, Harness::fresh);

    #[async_trait]
    impl SourceHarness for Harness {
        type Source = LogSource;

        async fn open(&self) -> LogSource {
            let consumer = ConsumerName::parse("suite").expect("name");
            LogSource::builder(Arc::new(self.0.clone())).consumer(consumer).build()
        }

        async fn produce(&self, events: Vec<NewEvent>) {
            let mut tx = self.0.begin();
            let receipt = self.0.append(&mut tx, &events).await.expect("append");
            tx.commit().await;
            receipt.committed();
        }

        async fn produce_foreign(&self, _payload: Bytes) {
            unreachable!("a log holds events only, and its source says so");
        }
    }

    crate::source_suite!(conformance_as_a_source, Harness::fresh);

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_to_the_millisecond_on_the_paused_clock() {
        let log = MemoryLog::default();
        let consumer = ConsumerName::parse("suite").expect("name");
        log.register(&consumer, StartAt::Beginning).await.expect("register");
        let (almost, lease) = (Duration::from_millis(9_999), Duration::from_secs(10));
        log.join(&consumer, MemberId::random(), Claim::All, lease).await.expect("join");
        let second = log.join(&consumer, MemberId::random(), Claim::All, lease).await.expect("join");
        tokio::time::advance(almost).await;
        assert_eq!(log.renew(&second.fence, lease).await.expect("renew").gained, []);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(lanes_of(&log.renew(&second.fence, lease).await.expect("renew").gained).len(), 64);
    }

    #[tokio::test]
    async fn a_transaction_of_another_log_is_refused() {
        let mut tx = MemoryLog::default().begin();
        let refused = MemoryLog::default().append(&mut tx, &[]).await.expect_err("another log");
        assert_eq!(refused.kind(), AppendErrorKind::Incompatible);
    }
}
