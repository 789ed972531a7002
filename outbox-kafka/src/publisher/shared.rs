//! What the clones of a publisher share: two producers, what is known of the topics, and the room for messages.

use std::{
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use outbox_core::publisher::{Message, PublishError};
use rdkafka::ClientConfig;
use tokio::sync::{Mutex, Semaphore};

use super::{
    capacity::{Capacity, Held},
    catalogue::{Catalogue, Found, Kept},
    delivery::{Batch, Body, KafkaDelivery, Line},
    failure,
    producer::{Gate, Generation},
    reach::{Reach, Reachability},
    reports::Manner,
    seat::{Current, Seat},
};
use crate::{
    settings::explain,
    topics::{TopicPolicy, lookup::Lookup},
};

/// How long a cluster that was lost, or never heard of, is given to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a lookup that got no answer waits before it asks again.
const PAUSE: Duration = Duration::from_secs(1);

/// More messages than are ever isolated at once.
pub(crate) const ISOLATED: u32 = 1 << 20;

pub(crate) struct Shared {
    pub(crate) servers: String,
    pub(crate) admin: ClientConfig,
    pub(crate) policy: TopicPolicy,
    pub(crate) isolated: Arc<Seat>,
    /// Everything accepted by isolated streams holds one.
    pub(crate) isolating: Arc<Semaphore>,
    pub(crate) catalogue: Arc<Catalogue>,
    main: Arc<Seat>,
    capacity: Capacity,
    reach: Arc<Reachability>,
    asking: Mutex<()>,
}

/// The settings of the clients of one publisher.
pub(crate) struct Clients {
    pub(crate) main: ClientConfig,
    pub(crate) isolated: ClientConfig,
    pub(crate) admin: ClientConfig,
}

impl Shared {
    pub(crate) fn new(servers: String, clients: Clients, policy: TopicPolicy, capacity: Capacity) -> Self {
        let reach = Arc::<Reachability>::default();
        let compressed = clients.main.get("compression.codec").is_some_and(|codec| codec != "none");
        let catalogue = Arc::new(Catalogue::new(compressed));
        let seat = |manner, config| Seat::new(manner, config, reach.clone(), catalogue.clone());
        Self {
            servers,
            main: seat(Manner::Together, clients.main),
            isolated: seat(Manner::Alone, clients.isolated),
            isolating: Arc::new(Semaphore::new(ISOLATED as usize)),
            admin: clients.admin,
            policy,
            catalogue,
            capacity,
            reach,
            asking: Mutex::default(),
        }
    }

    /// The producer for batches, created if there is none.
    pub(crate) async fn ready(&self) -> Result<Arc<Generation>, PublishError> {
        self.main.ready().await
    }

    /// Waits for room with a cluster that answers and a producer that takes messages.
    pub(crate) async fn reserve(&self, messages: usize, bytes: usize) -> Result<Held, PublishError> {
        if self.reach.is_up()
            && self.main.is_ready()
            && let Some(held) = self.capacity.try_take(messages, bytes)
        {
            return Ok(held);
        }
        self.answering(&self.main).await?;
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

    /// Waits for a cluster that answers and an isolating producer. What the main producer wrote until now is settled.
    pub(crate) async fn reserve_isolated(&self) -> Result<(), PublishError> {
        self.main.settled().await;
        self.answering(&self.isolated).await
    }

    /// Hands a batch to the producer; resolves it as failed when there is none.
    pub(crate) fn send(self: &Arc<Self>, batch: &Arc<Batch>, bodies: Vec<Body>) {
        let all = 0..bodies.len();
        let current = self.main.read();
        let Current::Ready(generation) = &*current else {
            batch.fail(all, || failure::environment("the producer is being replaced; send again"));
            return;
        };
        let known = self.catalogue.known();
        if known.pass(batch) {
            generation.send(batch, all, bodies, |_, body| Gate::Go(body));
            return;
        }
        drop(known);
        let mut sifting = self.catalogue.sift();
        generation.send(batch, all, bodies, |index, body| sifting.gate(batch, index, body));
        drop(sifting);
        drop(current);
        self.look_up();
    }

    /// Hands a message to the isolating producer, and waits for that producer as long as it takes.
    pub(crate) async fn send_isolated(self: &Arc<Self>, message: Message) -> Result<KafkaDelivery, PublishError> {
        // Which keys are broken is the stream's affair: it waits for each message.
        let (batch, bodies) = Batch::new(vec![message], Arc::default(), None);
        for (line, body) in batch.lines().iter().zip(&bodies) {
            self.catalogue.admit(line, body, || self.look_up()).await?;
        }
        loop {
            // What the main producer still holds may be written until it has ended.
            self.main.settled().await;
            self.isolated.ready().await?;
            if let Current::Ready(generation) = &*self.isolated.read() {
                generation.send(&batch, 0..bodies.len(), bodies, |_, body| Gate::Go(body));
                return Ok(KafkaDelivery(batch));
            }
        }
    }

    /// Waits until a topic was looked up, whatever came of it.
    pub(crate) async fn learn(self: &Arc<Self>, topic: &str) {
        let line = Line { topic: topic.into(), key: Bytes::new(), bytes: 0 };
        let body = Body { payload: None, headers: Vec::new() };
        let _told_when_it_is_used = self.catalogue.admit(&line, &body, || self.look_up()).await;
    }

    /// Looks topics up that are not known, on a thread of its own, unless that goes on already.
    pub(crate) fn look_up(self: &Arc<Self>) {
        let Some(unknown) = self.catalogue.begin_lookup() else { return };
        let shared = Arc::downgrade(self);
        let spawned =
            thread::Builder::new().name("outbox-kafka-topics".to_owned()).spawn(move || look_up(&shared, unknown));
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread could be started to look topics up");
            self.catalogue.cancel_lookup("no thread could be started to look the topic up");
        }
    }

    /// `None`, and nothing waits any more: it cannot even begin.
    fn lookup(&self) -> Option<Lookup> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string());
        let lookup = runtime.and_then(|runtime| {
            Lookup::new(runtime, &self.admin, self.policy.clone()).map_err(|error| explain(&error))
        });
        match lookup {
            Ok(lookup) => Some(lookup),
            Err(error) => {
                tracing::warn!(%error, "topics cannot be looked up");
                self.catalogue.cancel_lookup("the topic could not be looked up");
                None
            }
        }
    }

    /// Takes in what a lookup found; before messages pass, batches are made small enough for the topic.
    async fn take_in(&self, topic: &Arc<str>, found: Found) {
        let limit = match found {
            Found::Usable { limit } => limit,
            Found::Unusable { kind, why } => return self.catalogue.close(topic, kind, why),
        };
        if let Some(limit) = limit {
            self.main.fit(limit).await;
        }
        while !self.catalogue.sift().open_unless_awaited(topic, limit) {
            if let Err(error) = self.ready().await {
                return self.catalogue.close(topic, error.kind(), outbox_core::error::chain(&error));
            }
            let current = self.main.read();
            let Current::Ready(generation) = &*current else { continue };
            let mut sifting = self.catalogue.sift();
            for Kept { batch, index, body } in sifting.open(topic, limit) {
                let one = std::iter::once(index);
                generation.send(&batch, one, [body], |index, body| sifting.gate(&batch, index, body));
            }
            break;
        }
        self.catalogue.notify();
    }

    /// A producer whose cluster answers.
    async fn answering(&self, seat: &Arc<Seat>) -> Result<(), PublishError> {
        let generation = seat.ready().await?;
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
    pub(crate) async fn ping(&self, timeout: Duration) -> Result<(), PublishError> {
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

    /// Lets everything accepted be written for `grace`, then gives it up. Whether nothing was left by then.
    pub(crate) async fn shut_down(&self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        let accepted = async {
            self.catalogue.emptied().await;
            // All of it: nothing is isolated any more.
            let _none_left = self.isolating.acquire_many(ISOLATED).await;
        };
        let passed_on = tokio::time::timeout(grace, accepted).await.is_ok();
        if !passed_on {
            self.catalogue.give_up("given up at shut-down before the topic was known");
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let (main, isolated) = tokio::join!(self.main.shut_down(left), self.isolated.shut_down(left));
        passed_on && main && isolated
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.catalogue.give_up("the publisher is gone");
    }
}

/// Looks topics up until all are known, or nobody wants to know.
fn look_up(shared: &Weak<Shared>, mut unknown: Vec<Arc<str>>) {
    let Some(lookup) = shared.upgrade().and_then(|shared| shared.lookup()) else { return };
    loop {
        let found = lookup.topics(&unknown);
        let Some(shared) = shared.upgrade() else { return };
        match found {
            Ok(found) => {
                for (topic, found) in found {
                    lookup.runtime().block_on(shared.take_in(&topic, found));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the cluster does not tell of topics; their messages wait");
                thread::sleep(PAUSE);
            }
        }
        match shared.catalogue.still_unknown() {
            Some(left) => unknown = left,
            None => return,
        }
    }
}
