use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use uuid::Uuid;

use super::assert_caught;
use crate::{
    event::{Headers, LaneSet, NewEvent},
    log::{
        Assignment, ConsumerName, Cursor, EventLog, Fence, LogCapabilities, LogError, LogErrorKind, LogIdentity,
        MemberId, Page, Progress, StartAt,
    },
    memory::MemoryLog,
    outbox::{AppendError, Outbox, Receipt},
    testing::outbox_and_log::{self as suite, LogHarness},
    wake::Wake,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A page is sorted the wrong way round.
    Backwards,
    /// Events are visible before their transaction ends, and stay.
    Dirty,
    /// Positions are given at append, and the reader remembers only the highest one it has seen.
    RemembersOnlyAPosition,
    /// The last event of a full page is dropped.
    LosesAtPageEnd,
    /// A page is read as if every lane had been asked for.
    IgnoresLanes,
    /// Headers are not stored.
    ForgetsHeaders,
    /// A stale fence writes without complaint.
    SilentFence,
    /// A stale fence complains, after its checkpoint was written.
    LateFence,
    /// Checkpoints are not stored.
    ForgetsCheckpoints,
    /// A lease is not looked at: whoever asks takes over.
    IgnoresLeases,
    /// Only the latest registration counts.
    RestartsOnRegister,
    /// Nobody is woken.
    Mute,
}

struct Harness {
    log: Broken,
}

struct Broken {
    inner: MemoryLog,
    flaw: Flaw,
    /// Events that have a position although their transaction did not commit.
    hidden: Mutex<HashSet<Uuid>>,
    deaf: Wake,
    last_assignment: Mutex<Option<Assignment>>,
}

struct Tx {
    inner: crate::memory::MemoryTx,
    events: Vec<Uuid>,
}

impl Harness {
    fn with(flaw: Flaw) -> Self {
        Self { log: Broken::new(MemoryLog::default(), flaw) }
    }
}

impl Broken {
    fn new(inner: MemoryLog, flaw: Flaw) -> Self {
        Self { inner, flaw, hidden: Mutex::default(), deaf: Wake::default(), last_assignment: Mutex::default() }
    }

    fn hidden(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.hidden.lock().expect("no panic while held")
    }

    fn last_assignment(&self) -> MutexGuard<'_, Option<Assignment>> {
        self.last_assignment.lock().expect("no panic while held")
    }
}

#[async_trait]
impl LogHarness for Harness {
    type Log = Broken;

    fn log(&self) -> &Broken {
        &self.log
    }

    async fn open_again(&self) -> Broken {
        Broken::new(self.log.inner.clone(), self.log.flaw)
    }

    async fn begin(&self) -> Tx {
        Tx { inner: self.log.inner.begin(), events: Vec::new() }
    }

    async fn commit(&self, tx: Tx) {
        self.log.hidden().retain(|id| !tx.events.contains(id));
        tx.inner.commit().await;
    }

    async fn rollback(&self, tx: Tx) {
        drop(tx);
    }
}

#[async_trait]
impl Outbox for Broken {
    type Tx<'t> = Tx;

    async fn append(&self, tx: &mut Self::Tx<'_>, events: &[NewEvent]) -> Result<Receipt, AppendError> {
        let at_once = matches!(self.flaw, Flaw::Dirty | Flaw::RemembersOnlyAPosition);
        let receipt = if at_once {
            let mut own = self.inner.begin();
            let receipt = self.inner.append(&mut own, events).await?;
            own.commit().await;
            receipt
        } else {
            self.inner.append(&mut tx.inner, events).await?
        };
        if self.flaw == Flaw::RemembersOnlyAPosition {
            tx.events.extend(events.iter().map(|new| new.event().id));
            self.hidden().extend(&tx.events);
        }
        let mute = self.flaw == Flaw::Mute;
        Ok(if mute { Receipt::new(receipt.events(), self.deaf.clone()) } else { receipt })
    }
}

#[async_trait]
impl EventLog for Broken {
    fn capabilities(&self) -> LogCapabilities {
        self.inner.capabilities()
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        self.inner.identity().await
    }

    async fn register(&self, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
        self.inner.register(consumer, start).await?;
        if self.flaw == Flaw::RestartsOnRegister && start == StartAt::End {
            let everything = LaneSet::all(self.inner.identity().await?.lanes);
            let cursor = self.inner.progress(consumer).await?.cursor;
            let end = self.inner.read(&cursor, everything, usize::MAX).await?.next;
            let member = MemberId::random();
            if let Some(assignment) = self.inner.join(consumer, member, Duration::ZERO).await? {
                self.inner.checkpoint(&assignment.fence, &end).await?;
                self.inner.leave(&assignment.fence).await?;
            }
        }
        Ok(())
    }

    async fn join(
        &self,
        consumer: &ConsumerName,
        member: MemberId,
        lease: Duration,
    ) -> Result<Option<Assignment>, LogError> {
        if self.flaw == Flaw::IgnoresLeases {
            let last = self.last_assignment().take();
            if let Some(last) = last {
                let _gone_already = self.inner.leave(&last.fence).await;
            }
        }
        let assignment = self.inner.join(consumer, member, lease).await?;
        self.last_assignment().clone_from(&assignment);
        Ok(assignment)
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<(), LogError> {
        self.inner.renew(fence, lease).await
    }

    async fn leave(&self, fence: &Fence) -> Result<(), LogError> {
        self.inner.leave(fence).await
    }

    async fn read(&self, cursor: &Cursor, lanes: LaneSet, limit: usize) -> Result<Page, LogError> {
        let lanes = match self.flaw {
            Flaw::IgnoresLanes => LaneSet::all(self.inner.identity().await?.lanes),
            _ => lanes,
        };
        let mut page = self.inner.read(cursor, lanes, limit).await?;
        let full = page.events.len() == limit;
        match self.flaw {
            Flaw::Backwards => page.events.reverse(),
            Flaw::LosesAtPageEnd if full => drop(page.events.pop()),
            Flaw::ForgetsHeaders => page.events.iter_mut().for_each(|r| r.event.headers = Headers::default()),
            _ => {}
        }
        page.events.retain(|recorded| !self.hidden().contains(&recorded.event.id));
        Ok(page)
    }

    async fn checkpoint(&self, fence: &Fence, cursor: &Cursor) -> Result<(), LogError> {
        if self.flaw == Flaw::ForgetsCheckpoints {
            return Ok(());
        }
        match self.inner.checkpoint(fence, cursor).await {
            Err(error) if error.kind() == LogErrorKind::Fenced && self.flaw == Flaw::SilentFence => Ok(()),
            Err(error) if error.kind() == LogErrorKind::Fenced && self.flaw == Flaw::LateFence => {
                let owner = self.last_assignment().clone();
                if let Some(owner) = owner {
                    self.inner.checkpoint(&owner.fence, cursor).await?;
                }
                Err(error)
            }
            other => other,
        }
    }

    async fn progress(&self, consumer: &ConsumerName) -> Result<Progress, LogError> {
        self.inner.progress(consumer).await
    }

    fn wake(&self) -> &Wake {
        self.inner.wake()
    }
}

crate::outbox_log_suite!(without_a_flaw, || async { Harness::with(Flaw::None) });

#[tokio::test]
async fn a_log_in_the_wrong_order_is_caught() {
    let harness = Harness::with(Flaw::Backwards);
    assert_caught(suite::events_of_one_append_keep_their_order(&harness), "order within key a").await;
    let harness = Harness::with(Flaw::Backwards);
    assert_caught(suite::sequences_increase_per_key(&harness), "sequences of Suite/a").await;
    let harness = Harness::with(Flaw::Backwards);
    assert_caught(suite::order_survives_many_writers(&harness), "sequences go back").await;
}

#[tokio::test]
async fn a_log_that_shows_rolled_back_events_is_caught() {
    let harness = Harness::with(Flaw::Dirty);
    assert_caught(suite::rolled_back_events_are_never_read(&harness), "left == right").await;
    let harness = Harness::with(Flaw::Dirty);
    assert_caught(suite::order_survives_many_writers(&harness), "read but never committed").await;
}

#[tokio::test]
async fn a_reader_that_remembers_only_a_position_is_caught() {
    let harness = Harness::with(Flaw::RemembersOnlyAPosition);
    assert_caught(suite::a_late_commit_is_not_lost(&harness), "the late event and only it").await;
    let harness = Harness::with(Flaw::RemembersOnlyAPosition);
    assert_caught(suite::order_survives_many_writers(&harness), "every committed event is read").await;
}

#[tokio::test]
async fn a_log_that_loses_an_event_at_the_end_of_a_page_is_caught() {
    let harness = Harness::with(Flaw::LosesAtPageEnd);
    assert_caught(suite::pages_respect_the_limit_and_reach_the_end(&harness), "in pages of 1").await;
}

#[tokio::test]
async fn a_log_that_ignores_lanes_is_caught() {
    let harness = Harness::with(Flaw::IgnoresLanes);
    assert_caught(suite::lanes_divide_the_log(&harness), "only the lanes asked for").await;
}

#[tokio::test]
async fn a_log_that_forgets_headers_is_caught() {
    let harness = Harness::with(Flaw::ForgetsHeaders);
    assert_caught(suite::every_field_survives(&harness), "left == right").await;
}

#[tokio::test]
async fn a_fence_that_is_ignored_is_caught() {
    let harness = Harness::with(Flaw::SilentFence);
    assert_caught(suite::a_stale_fence_changes_nothing(&harness), "checkpoint with a stale fence succeeded").await;
    let harness = Harness::with(Flaw::LateFence);
    assert_caught(suite::a_stale_fence_changes_nothing(&harness), "no checkpoint was written").await;
}

#[tokio::test]
async fn a_lease_that_is_ignored_is_caught() {
    let harness = Harness::with(Flaw::IgnoresLeases);
    assert_caught(suite::a_live_member_keeps_its_lanes(&harness), "left == right").await;
    let harness = Harness::with(Flaw::IgnoresLeases);
    assert_caught(suite::renewing_keeps_the_lanes(&harness), "the renewed lease holds").await;
}

#[tokio::test]
async fn a_log_that_forgets_places_is_caught() {
    let harness = Harness::with(Flaw::ForgetsCheckpoints);
    assert_caught(suite::the_successor_starts_at_the_checkpoint(&harness), "comes again").await;
    let harness = Harness::with(Flaw::RestartsOnRegister);
    assert_caught(suite::registering_again_keeps_the_place(&harness), "registered again from End").await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_wakes_nobody_is_caught() {
    let harness = Harness::with(Flaw::Mute);
    assert_caught(suite::commit_rings_the_bell(&harness), "the bell after a commit").await;
}
