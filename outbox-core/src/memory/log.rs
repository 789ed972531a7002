//! A log in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

use super::lock;
use crate::{
    event::{Event, LaneCount, LaneSet, LogId, NewEvent, Origin, RecordedEvent, Sequence},
    log::{
        Assignment, ConsumerName, Cursor, EventLog, Fence, LogCapabilities, LogError, LogErrorKind, LogIdentity,
        MemberId, Page, Progress, StartAt,
    },
    outbox::{AppendError, AppendErrorKind, Outbox, Receipt},
    profile::Profile,
    wake::Wake,
};

/// A log that lives as long as its last handle. Cloning is cheap and yields another handle on the same log.
///
/// Positions are assigned at commit, so commit order is position order and writers never wait for each other. Leases
/// run on tokio's clock and follow it when a test pauses it. Nothing is ever removed.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    identity: LogIdentity,
    profile: Profile,
    wake: Wake,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The event at index `i` has position `i + 1`.
    events: Vec<RecordedEvent>,
    consumers: HashMap<ConsumerName, Consumer>,
}

#[derive(Debug, Default)]
struct Consumer {
    /// Every event up to this position is done.
    checkpoint: usize,
    /// Of the last assignment; 0 before the first.
    epoch: u64,
    owner: Option<Owner>,
}

#[derive(Debug)]
struct Owner {
    member: MemberId,
    /// `None`: later than the clock can say.
    expires: Option<Instant>,
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
        Self { shared: Arc::new(Shared { identity, profile, wake: Wake::default(), state: Mutex::default() }) }
    }

    /// Begins a transaction. Dropping it rolls it back.
    #[must_use = "a transaction that is dropped is rolled back"]
    pub fn begin(&self) -> MemoryTx {
        MemoryTx { log: self.shared.clone(), events: Vec::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// `None` for what is no cursor of this log, or lies beyond its end.
    fn position_of(&self, cursor: &Cursor, state: &State) -> Result<usize, LogError> {
        let parse = || {
            let (position, log) = cursor.as_text().split_once('@')?;
            let position: usize = position.parse().ok()?;
            let mine = Uuid::parse_str(log).ok()? == self.shared.identity.id.0;
            (mine && position <= state.events.len()).then_some(position)
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
            let position = state.events.len() as u64 + 1;
            // A log of 2^47 events does not fit into memory.
            let Some(sequence) = Sequence::new(identity.generation, position) else { return };
            let lane = identity.lanes.lane_of(&event.lane_key());
            state.events.push(RecordedEvent { origin: Origin { log: identity.id, sequence }, lane, event });
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
        Ok(self.shared.identity)
    }

    async fn register(&self, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
        let mut state = self.state();
        let checkpoint = match start {
            StartAt::Beginning => 0,
            StartAt::End => state.events.len(),
        };
        state.consumers.entry(consumer.clone()).or_insert_with(|| Consumer { checkpoint, ..Consumer::default() });
        Ok(())
    }

    async fn join(
        &self,
        consumer: &ConsumerName,
        member: MemberId,
        lease: Duration,
    ) -> Result<Option<Assignment>, LogError> {
        let now = Instant::now();
        let mut state = self.state();
        let known = state.consumers.get_mut(consumer).ok_or_else(|| unknown(consumer))?;
        let taken = known.owner.as_ref().is_some_and(|owner| owner.member != member && owner.is_live(now));
        if taken {
            return Ok(None);
        }
        known.epoch += 1;
        known.owner = Some(Owner { member, expires: now.checked_add(lease) });
        Ok(Some(Assignment {
            fence: Fence { consumer: consumer.clone(), member, epoch: known.epoch },
            lanes: LaneSet::all(self.shared.identity.lanes),
            cursor: self.cursor_at(known.checkpoint),
        }))
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<(), LogError> {
        let expires = Instant::now().checked_add(lease);
        self.state().owned(fence)?.owner = Some(Owner { member: fence.member, expires });
        Ok(())
    }

    async fn leave(&self, fence: &Fence) -> Result<(), LogError> {
        self.state().owned(fence)?.owner = None;
        Ok(())
    }

    async fn read(&self, cursor: &Cursor, lanes: LaneSet, limit: usize) -> Result<Page, LogError> {
        let state = self.state();
        let mut position = self.position_of(cursor, &state)?;
        let mut events = Vec::new();
        for recorded in &state.events[position..] {
            if events.len() == limit {
                break;
            }
            if lanes.contains(recorded.lane) {
                events.push(recorded.clone());
            }
            position += 1;
        }
        Ok(Page { events, next: self.cursor_at(position), caught_up: position == state.events.len() })
    }

    async fn checkpoint(&self, fence: &Fence, cursor: &Cursor) -> Result<(), LogError> {
        let mut state = self.state();
        let position = self.position_of(cursor, &state)?;
        state.owned(fence)?.checkpoint = position;
        Ok(())
    }

    async fn progress(&self, consumer: &ConsumerName) -> Result<Progress, LogError> {
        let state = self.state();
        let checkpoint = state.consumers.get(consumer).ok_or_else(|| unknown(consumer))?.checkpoint;
        let (position, head) = (checkpoint as u64, state.events.len() as u64);
        Ok(Progress { cursor: self.cursor_at(checkpoint), position, head })
    }

    fn wake(&self) -> &Wake {
        &self.shared.wake
    }
}

impl State {
    /// The consumer, if this fence is the one of its owner.
    fn owned(&mut self, fence: &Fence) -> Result<&mut Consumer, LogError> {
        let known = self.consumers.get_mut(&fence.consumer);
        known
            .filter(|c| c.epoch == fence.epoch && c.owner.as_ref().is_some_and(|owner| owner.member == fence.member))
            .ok_or_else(|| {
                let message = format!("member {} of {} lost its lanes; join again", fence.member.0, fence.consumer);
                LogError::new(LogErrorKind::Fenced, message)
            })
    }
}

impl Owner {
    fn is_live(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

fn unknown(consumer: &ConsumerName) -> LogError {
    LogError::new(LogErrorKind::UnknownConsumer, format!("consumer {consumer} was never registered; register it first"))
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
        log.join(&consumer, MemberId::random(), lease).await.expect("join").expect("lanes");
        tokio::time::advance(almost).await;
        assert_eq!(log.join(&consumer, MemberId::random(), lease).await.expect("join"), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(log.join(&consumer, MemberId::random(), lease).await.expect("join").is_some());
    }

    #[tokio::test]
    async fn a_transaction_of_another_log_is_refused() {
        let mut tx = MemoryLog::default().begin();
        let refused = MemoryLog::default().append(&mut tx, &[]).await.expect_err("another log");
        assert_eq!(refused.kind(), AppendErrorKind::Incompatible);
    }
}
