//! The place of one producer at a time, and of its successors.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use outbox_core::publisher::{PublishError, PublishErrorKind};
use rdkafka::ClientConfig;
use tokio::sync::{Mutex, Notify, oneshot};

use super::{
    catalogue::Catalogue,
    failure,
    producer::Generation,
    reach::Reachability,
    reports::{Manner, Reports, TooLarge},
};
use crate::settings::explain;

/// How long a producer with too large batches may take to finish what it has before it is replaced.
const REFIT: Duration = Duration::from_secs(10);

/// Below this a batch is not worth its request, whatever a topic refused.
const SMALLEST_BATCH: usize = 4_096;

pub(crate) struct Seat {
    manner: Manner,
    config: ClientConfig,
    /// librdkafka's `batch.size`, from the next producer on.
    batch_bytes: AtomicUsize,
    reach: Arc<Reachability>,
    catalogue: Arc<Catalogue>,
    current: RwLock<Current>,
    /// The current producer came or went.
    changed: Notify,
    creating: Mutex<()>,
}

pub(crate) enum Current {
    /// None yet, or the last one has ended: the next to reserve creates one.
    None,
    Ready(Arc<Generation>),
    /// Takes nothing more; ends when it owes nothing, at the latest at this time.
    Draining(Instant, Vec<oneshot::Sender<bool>>),
    /// Being purged: nothing may be sent before that is over.
    Ending(Vec<oneshot::Sender<bool>>),
}

impl Seat {
    pub(crate) fn new(
        manner: Manner,
        config: ClientConfig,
        reach: Arc<Reachability>,
        catalogue: Arc<Catalogue>,
    ) -> Arc<Self> {
        let batch_bytes = config.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(usize::MAX);
        Arc::new(Self {
            manner,
            config,
            batch_bytes: AtomicUsize::new(batch_bytes),
            reach,
            catalogue,
            current: RwLock::new(Current::None),
            changed: Notify::new(),
            creating: Mutex::default(),
        })
    }

    /// Whether a producer takes messages now.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(&*self.read(), Current::Ready(generation) if !generation.is_broken())
    }

    /// The producer that takes messages, created if there is none, waited for while its predecessor ends.
    ///
    /// Errors: [`PublishErrorKind::Configuration`] when librdkafka does not accept the settings;
    /// [`PublishErrorKind::Environment`] when no thread can be started.
    pub(crate) async fn ready(self: &Arc<Self>) -> Result<Arc<Generation>, PublishError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let none = match &*self.read() {
                Current::Ready(generation) if !generation.is_broken() => return Ok(generation.clone()),
                Current::None => true,
                Current::Ready(_) | Current::Draining(..) | Current::Ending(_) => false,
            };
            if none {
                self.create().await?;
            } else {
                changed.await;
            }
        }
    }

    /// Waits while a producer is being replaced.
    pub(crate) async fn settled(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match &*self.read() {
                Current::None => return,
                Current::Ready(generation) if !generation.is_broken() => return,
                Current::Ready(_) | Current::Draining(..) | Current::Ending(_) => {}
            }
            changed.await;
        }
    }

    async fn create(self: &Arc<Self>) -> Result<(), PublishError> {
        let _one_at_a_time = self.creating.lock().await;
        if !matches!(*self.read(), Current::None) {
            return Ok(());
        }
        let mut config = self.config.clone();
        if self.manner == Manner::Together && config.get("batch.size").is_some() {
            config.set("batch.size", self.batch_bytes.load(Ordering::Acquire).to_string());
        }
        let reports = Reports::new(self.manner, self.reach.clone(), self.catalogue.clone());
        let created = tokio::task::spawn_blocking(move || Generation::create(&config, reports)).await;
        let generation = match created {
            Ok(Ok(generation)) => generation,
            Ok(Err(error)) => return Err(PublishError::new(PublishErrorKind::Configuration, explain(&error))),
            Err(error) => {
                return Err(failure::environment("creating the producer was interrupted").with_source(error));
            }
        };
        let mut current = self.write();
        generation
            .clone()
            .serve(Arc::downgrade(self), self.config.clone())
            .map_err(|error| failure::environment("no thread could be started for the producer").with_source(error))?;
        *current = Current::Ready(generation);
        drop(current);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Makes batches of at most so many bytes. A producer that makes larger ones finishes what it has and is replaced.
    pub(crate) async fn fit(&self, batch_bytes: usize) {
        if self.shrink_to(batch_bytes) {
            tracing::info!(batch_bytes, "batches are made smaller, as a topic takes none of the former size");
            self.shut_down(REFIT).await;
        }
    }

    /// Takes in what was refused for its size by topics whose limit may be unknown.
    pub(crate) fn learn(&self, too_large: &BTreeMap<Arc<str>, TooLarge>) {
        for (topic, refused) in too_large {
            let limit = self.catalogue.forget(topic);
            // Without a known limit it is approached by halves. A message that was refused alone tells nothing.
            if limit.is_none() && refused.messages > 1 {
                let smaller = (refused.bytes / 2).max(SMALLEST_BATCH);
                self.shrink_to(smaller);
            }
        }
    }

    /// Whether batches were larger.
    fn shrink_to(&self, batch_bytes: usize) -> bool {
        self.batch_bytes.fetch_min(batch_bytes, Ordering::AcqRel) > batch_bytes
    }

    /// Lets the producer finish for `grace`, then ends it. Whether it owed nothing by then.
    pub(crate) async fn shut_down(&self, grace: Duration) -> bool {
        let (sender, ended) = oneshot::channel();
        {
            let mut current = self.write();
            match &mut *current {
                Current::None => return true,
                Current::Ready(_) => *current = Current::Draining(Instant::now() + grace, vec![sender]),
                Current::Draining(deadline, waiting) => {
                    *deadline = (*deadline).min(Instant::now() + grace);
                    waiting.push(sender);
                }
                Current::Ending(waiting) => waiting.push(sender),
            }
        }
        ended.await.unwrap_or(true)
    }

    /// Ends a producer that is not needed. What was queued at the last moment is still sent.
    pub(crate) fn retire(&self) {
        let mut current = self.write();
        if matches!(*current, Current::Ready(_)) {
            *current = Current::Draining(Instant::now() + REFIT, Vec::new());
        }
    }

    /// When the producer has to end although it still owes something; `None` while it takes messages.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &*self.read() {
            Current::Draining(deadline, _) => Some(*deadline),
            _ => None,
        }
    }

    /// After this no sender reaches the producer that is about to be purged.
    pub(crate) fn close_to_senders(&self) {
        let mut current = self.write();
        let waiting = match std::mem::replace(&mut *current, Current::None) {
            Current::Draining(_, waiting) | Current::Ending(waiting) => waiting,
            Current::None | Current::Ready(_) => Vec::new(),
        };
        *current = Current::Ending(waiting);
    }

    /// The producer is gone; the next to reserve creates another.
    pub(crate) fn open_to_senders(&self, in_time: bool) {
        let ended = std::mem::replace(&mut *self.write(), Current::None);
        if let Current::Ending(waiting) = ended {
            for sender in waiting {
                // Whoever waited may have stopped waiting.
                let _gone = sender.send(in_time);
            }
        }
        self.changed.notify_waiters();
    }

    /// Held while queueing: a producer that is being replaced gets nothing more once it is purged.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Current> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat() -> Arc<Seat> {
        let mut config = ClientConfig::new();
        config.set("batch.size", "1000000");
        Seat::new(Manner::Together, config, Arc::default(), Arc::default())
    }

    fn batch_bytes_after(refused: &[TooLarge]) -> usize {
        let seat = seat();
        for TooLarge { messages, bytes } in refused {
            let refused = TooLarge { messages: *messages, bytes: *bytes };
            seat.learn(&BTreeMap::from([("topic".into(), refused)]));
        }
        seat.batch_bytes.load(Ordering::Acquire)
    }

    #[test]
    fn where_the_limit_cannot_be_read_it_is_approached_by_halves() {
        let refused = |messages, bytes| TooLarge { messages, bytes };
        assert_eq!(batch_bytes_after(&[refused(10, 800_000)]), 400_000);
        assert_eq!(batch_bytes_after(&[refused(10, 800_000), refused(5, 400_000)]), 200_000);
        assert_eq!(batch_bytes_after(&[refused(10, 800_000), refused(9, 1_000_000)]), 400_000, "never larger again");
        assert_eq!(batch_bytes_after(&[refused(1, 50_000)]), 1_000_000, "a message alone tells nothing of batches");
        assert_eq!(batch_bytes_after(&[refused(100, 1_000)]), SMALLEST_BATCH);
    }

    #[tokio::test]
    async fn without_a_producer_there_is_nothing_to_wait_for() {
        let seat = seat();
        assert!(!seat.is_ready());
        seat.settled().await;
        seat.fit(1_000).await;
        assert_eq!(seat.batch_bytes.load(Ordering::Acquire), 1_000);
        assert!(seat.shut_down(Duration::ZERO).await);
    }
}
