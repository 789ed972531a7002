//! What the clones of a publisher share: the one producer there is at a time, its successor, and the room for messages.

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use outbox_core::publisher::{Message, PublishError, PublishErrorKind};
use rdkafka::ClientConfig;
use tokio::sync::{Mutex, Notify, oneshot};

use super::{
    capacity::{Capacity, Held},
    delivery::Batch,
    failure,
    producer::Generation,
    reach::{Reach, Reachability},
};
use crate::settings::explain;

/// How long a cluster that was lost, or never heard of, is given to answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(crate) struct Shared {
    pub(crate) servers: String,
    pub(crate) config: ClientConfig,
    pub(crate) capacity: Capacity,
    reach: Arc<Reachability>,
    current: RwLock<Current>,
    /// The current producer came or went.
    changed: Notify,
    creating: Mutex<()>,
    asking: Mutex<()>,
}

enum Current {
    /// None yet, or the last one has ended: the next to reserve creates one.
    None,
    Ready(Arc<Generation>),
    /// Takes nothing more; ends when it owes nothing, at the latest at this time.
    Draining(Instant, Vec<oneshot::Sender<bool>>),
    /// Being purged: nothing may be sent before that is over.
    Ending(Vec<oneshot::Sender<bool>>),
}

impl Shared {
    pub(crate) fn new(servers: String, config: ClientConfig, capacity: Capacity) -> Self {
        Self {
            servers,
            config,
            capacity,
            reach: Arc::default(),
            current: RwLock::new(Current::None),
            changed: Notify::new(),
            creating: Mutex::default(),
            asking: Mutex::default(),
        }
    }

    /// Waits for room with a cluster that answers and a producer that takes messages.
    pub(crate) async fn reserve(self: &Arc<Self>, messages: usize, bytes: usize) -> Result<Held, PublishError> {
        self.answering().await?;
        let held = tokio::select! {
            biased;
            held = self.capacity.take(messages, bytes) => held,
            () = self.reach.lost() => None,
        };
        let held = held.ok_or_else(|| self.unreachable("all connections were lost"))?;
        // While this one waited the producer may have been replaced.
        self.ready().await?;
        Ok(held)
    }

    /// Hands a batch to the current producer; resolves it as failed when there is none.
    pub(crate) fn send(&self, batch: &Arc<Batch>, messages: &[Message]) {
        // Held while queueing: a producer that is being replaced gets nothing more once it is purged.
        match &*self.read() {
            Current::Ready(generation) => generation.send(batch, messages),
            _ => batch.fail_from(0, || failure::environment("the producer is being replaced; send again")),
        }
    }

    /// A producer whose cluster answers.
    async fn answering(self: &Arc<Self>) -> Result<(), PublishError> {
        let generation = self.ready().await?;
        if self.reach.is_up() {
            return Ok(());
        }
        let _one_at_a_time = self.asking.lock().await;
        if self.reach.is_up() {
            return Ok(());
        }
        self.ask(generation, ANSWER).await
    }

    /// Asks the cluster whether it is there.
    pub(crate) async fn ping(self: &Arc<Self>, timeout: Duration) -> Result<(), PublishError> {
        let generation = self.ready().await?;
        self.ask(generation, timeout).await
    }

    async fn ask(&self, generation: Arc<Generation>, timeout: Duration) -> Result<(), PublishError> {
        let asked = tokio::task::spawn_blocking(move || generation.ask(timeout)).await;
        match asked {
            Ok(Ok(())) => {
                self.reach.set(Reach::Up);
                Ok(())
            }
            Ok(Err(error)) => {
                self.reach.set(Reach::Down);
                Err(self.unreachable(&format!("it did not answer within {timeout:?}")).with_source(error))
            }
            Err(error) => Err(self.unreachable("asking was interrupted").with_source(error)),
        }
    }

    fn unreachable(&self, why: &str) -> PublishError {
        failure::environment(format!(
            "Kafka at {} cannot be reached: {why}; check the address, the network and that the broker runs",
            self.servers
        ))
    }

    /// The producer that takes messages, created if there is none, waited for while its predecessor ends.
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

    async fn create(self: &Arc<Self>) -> Result<(), PublishError> {
        let _one_at_a_time = self.creating.lock().await;
        if !matches!(*self.read(), Current::None) {
            return Ok(());
        }
        let (config, reach) = (self.config.clone(), self.reach.clone());
        let created = tokio::task::spawn_blocking(move || Generation::create(&config, reach)).await;
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
            .serve(Arc::downgrade(self))
            .map_err(|error| failure::environment("no thread could be started for the producer").with_source(error))?;
        *current = Current::Ready(generation);
        Ok(())
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

    fn read(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Current> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }
}
