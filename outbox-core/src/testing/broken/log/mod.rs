//! Broken logs: one over [`MemoryLog`], with a flaw to choose, and the cases that catch each.

mod admin;
mod appending;
mod event_log;
mod flaw;
mod log_admin;
mod members;
mod parking;
mod retention;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use uuid::Uuid;

use self::flaw::Flaw;
use super::assert_caught;
use crate::{
    event::{NewEvent, Sequence},
    log::{ConsumerName, Cursor, EventLog, Fence, LogAdmin, LogError, MemberId, Track},
    memory::{MemoryLog, MemoryTx},
    outbox::{AppendError, AppendErrorKind, Outbox, Receipt},
    testing::outbox_and_log::{self as suite, LogHarness},
    wake::Wake,
};

struct Harness {
    log: Broken,
}

struct Broken {
    inner: MemoryLog,
    flaw: Flaw,
    deaf: Wake,
    one: Arc<tokio::sync::Mutex<()>>,
    notes: Mutex<Notes>,
}

/// What the flaws need to know.
#[derive(Default)]
struct Notes {
    /// Events that are not shown though they are in the log.
    hidden: HashSet<Uuid>,
    /// Events of transactions that are open.
    open: HashSet<Uuid>,
    /// The newest fence of each member.
    fences: HashMap<(ConsumerName, MemberId), Fence>,
    last_fence: Option<Fence>,
    /// The events of the pages of the read under way.
    reads: Vec<Vec<Uuid>>,
    reasons: BTreeMap<Sequence, String>,
    blocked: HashSet<String>,
    removed: u64,
}

struct Tx {
    inner: MemoryTx,
    events: Vec<Uuid>,
    refused: bool,
    _only: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Harness {
    fn with(flaw: Flaw) -> Self {
        Self { log: Broken::new(MemoryLog::default(), flaw) }
    }
}

impl Broken {
    fn new(inner: MemoryLog, flaw: Flaw) -> Self {
        Self { inner, flaw, deaf: Wake::default(), one: Arc::default(), notes: Mutex::default() }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().expect("no panic while held")
    }

    /// All fences but those of this consumer.
    fn fences_of_others(&self, consumer: &ConsumerName) -> Vec<Fence> {
        self.notes().fences.values().filter(|fence| fence.consumer != *consumer).cloned().collect()
    }

    /// Puts all lanes of a consumer that nobody owns to this place.
    async fn move_to(&self, consumer: &ConsumerName, cursor: &Cursor) -> Result<(), LogError> {
        let claim = crate::log::Claim::Share;
        let owner = self.inner.join(consumer, MemberId::random(), claim, std::time::Duration::ZERO).await?;
        if !owner.lanes().is_empty() {
            let moved = Track { cursor: cursor.clone(), lanes: owner.lanes() };
            self.inner.checkpoint(&owner.fence, &[moved]).await?;
        }
        self.inner.leave(&owner.fence).await
    }

    /// The place behind so many events.
    async fn place_behind(&self, consumer: &ConsumerName, events: usize) -> Result<Cursor, LogError> {
        let tracks = self.inner.progress(consumer).await?.tracks;
        let lanes = crate::log::lanes_of(&tracks);
        let start = Track { cursor: tracks[0].cursor.clone(), lanes };
        Ok(self.inner.read(&[start], events).await?.remove(0).next)
    }

    /// The events of the log, whoever hides them.
    async fn everything(&self) -> Result<Vec<crate::event::RecordedEvent>, LogError> {
        self.inner.tail(None, usize::MAX).await
    }
}

#[async_trait]
impl LogHarness for Harness {
    type Log = Broken;

    fn log(&self) -> &Broken {
        &self.log
    }

    async fn open_again(&self) -> Broken {
        let inner = if self.log.has(Flaw::HandlesApart) { MemoryLog::default() } else { self.log.inner.clone() };
        Broken::new(inner, self.log.flaw)
    }

    async fn begin(&self) -> Tx {
        Tx { inner: self.log.inner.begin(), events: Vec::new(), refused: false, _only: None }
    }

    async fn commit(&self, tx: Tx) {
        if self.log.has(Flaw::RemembersOnlyAPosition) {
            self.log.notes().hidden.retain(|id| !tx.events.contains(id));
        }
        self.log.notes().open.retain(|id| !tx.events.contains(id));
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
        match self.flaw {
            Flaw::RefusesNothing if events.is_empty() => return Err(refusal()),
            Flaw::RefusesEverAfter if tx.refused => return Err(refusal()),
            Flaw::KeepsTheLastAppend => tx.inner = self.inner.begin(),
            Flaw::OneWriter if tx._only.is_none() => tx._only = Some(self.one.clone().lock_owned().await),
            Flaw::TakesTornEvents
                if events.iter().any(|new| new.event().unordered && new.event().ordering_key.is_some()) =>
            {
                return Ok(Receipt::new(events.len(), self.deaf.clone()));
            }
            Flaw::AppendsByHalves => {
                for event in &events[..events.len().saturating_sub(1)] {
                    let _one_by_one = self.inner.append(&mut tx.inner, std::slice::from_ref(event)).await?;
                }
                let last = &events[events.len().saturating_sub(1)..];
                let receipt = self.inner.append(&mut tx.inner, last).await?;
                return Ok(Receipt::new(events.len().max(receipt.events()), self.inner.wake().clone()));
            }
            _ => {}
        }
        tx.refused = events.iter().any(|new| crate::profile::Profile::default().check(new).is_err());
        let at_once = matches!(self.flaw, Flaw::Dirty | Flaw::RemembersOnlyAPosition);
        let receipt = if at_once {
            let mut own = self.inner.begin();
            let receipt = self.inner.append(&mut own, events).await?;
            own.commit().await;
            receipt
        } else {
            self.inner.append(&mut tx.inner, events).await?
        };
        tx.events.extend(events.iter().map(|new| new.event().id));
        self.notes().open.extend(&tx.events);
        if self.has(Flaw::RemembersOnlyAPosition) {
            self.notes().hidden.extend(&tx.events);
        }
        Ok(if self.has(Flaw::Mute) { Receipt::new(receipt.events(), self.deaf.clone()) } else { receipt })
    }
}

fn refusal() -> AppendError {
    AppendError::new(AppendErrorKind::Database, "refused without need")
}

crate::outbox_log_suite!(without_a_flaw, || async { Harness::with(Flaw::None) });

#[test]
fn every_case_catches_a_broken_log() {
    let tests = [
        include_str!("admin.rs"),
        include_str!("appending.rs"),
        include_str!("members.rs"),
        include_str!("parking.rs"),
        include_str!("retention.rs"),
    ];
    crate::testing::suite::assert_all_named(include_str!("../../outbox_and_log/mod.rs"), &tests);
}

/// A test for each flaw: which case catches it, and how it complains.
macro_rules! caught {
    ($($test:ident: $flaw:ident by $case:ident, $complaint:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                assert_caught(suite::$case(&Harness::with(Flaw::$flaw)), $complaint).await;
            }
        )*
    };
}

use caught;
