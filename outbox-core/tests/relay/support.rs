//! A log, a broker, and relays between them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use outbox_core::{
    event::NewEvent,
    log::{ConsumerInfo, ConsumerName, LogAdmin, ParkedEvent},
    memory::{MemoryBroker, MemoryLog, MemoryPublisher},
    outbox::Outbox,
    profile::Profile,
    relay::{Relay, RelayBuilder, RelayError, RelayStatus},
    testing::{FaultyLog, FaultyPublisher, PATIENCE},
};
use tokio::{sync::watch, task::JoinHandle};

pub(crate) const TOPIC: &str = "agg-events";

pub(crate) type Log = FaultyLog<MemoryLog>;
pub(crate) type Publisher = FaultyPublisher<MemoryPublisher>;

pub(crate) struct Bench {
    pub(crate) log: Arc<Log>,
    pub(crate) broker: MemoryBroker,
    pub(crate) publisher: Arc<Publisher>,
    versions: HashMap<i64, i64>,
    /// Events that shall never arrive, by aggregate and version.
    given_up: HashSet<(i64, i64)>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let broker = MemoryBroker::default();
        let publisher = Arc::new(FaultyPublisher::new(broker.publisher()));
        let log = Arc::new(FaultyLog::new(MemoryLog::default()));
        Self { log, broker, publisher, versions: HashMap::new(), given_up: HashSet::new() }
    }

    /// One event for each of these aggregates, in this order, in one transaction.
    pub(crate) async fn change(&mut self, aggregates: impl IntoIterator<Item = i64>) {
        let events: Vec<NewEvent> = aggregates
            .into_iter()
            .map(|id| {
                let v = self.versions.entry(id).or_default();
                *v += 1;
                NewEvent::json("Agg", id, "AggChanged", v).expect("event")
            })
            .collect();
        let log = self.log.inner();
        let mut tx = log.begin();
        let receipt = log.append(&mut tx, &events).await.expect("append");
        tx.commit().await;
        receipt.committed();
    }

    pub(crate) fn relay(&self) -> RelayBuilder {
        Relay::builder(self.log.clone(), self.publisher.clone(), Profile::default())
    }

    pub(crate) fn events(&self) -> usize {
        self.versions.values().sum::<i64>() as usize - self.given_up.len()
    }

    /// The event of this aggregate and version is not waited for, and may be missing in front of later ones.
    pub(crate) fn give_up(&mut self, aggregate: i64, version: i64) {
        self.given_up.insert((aggregate, version));
    }

    /// Every event arrived, and first deliveries count up; returns how many came twice.
    pub(crate) async fn assert_complete(&self) -> usize {
        let mut count = self.events();
        loop {
            let messages = self.broker.wait_for(TOPIC, count).await;
            let mut seen = HashSet::new();
            let mut last: BTreeMap<i64, i64> = BTreeMap::new();
            for message in &messages {
                let body: serde_json::Value =
                    serde_json::from_slice(message.payload.as_ref().expect("body")).expect("JSON");
                if seen.insert(body["event_id"].to_string()) {
                    let key = std::str::from_utf8(&message.key).expect("text").parse().expect("number");
                    let last = last.entry(key).or_default();
                    *last += 1;
                    while self.given_up.contains(&(key, *last)) {
                        *last += 1;
                    }
                    assert_eq!(body["payload"].as_i64(), Some(*last), "key {key}");
                }
            }
            if seen.len() == self.events() {
                return messages.len() - seen.len();
            }
            count = messages.len() + 1;
        }
    }

    pub(crate) async fn consumer(&self) -> ConsumerInfo {
        self.log.inner().consumers().await.expect("consumers").remove(0)
    }

    pub(crate) async fn parked(&self) -> Vec<ParkedEvent> {
        self.log.inner().parked(&consumer(), None, 10_000).await.expect("parked")
    }
}

pub(crate) fn consumer() -> ConsumerName {
    ConsumerName::parse("relay").expect("name")
}

/// Whether a message is of this version of this aggregate.
pub(crate) fn is_event(message: &outbox_core::publisher::Message, aggregate: i64, version: i64) -> bool {
    let body: serde_json::Value = serde_json::from_slice(message.payload.as_ref().expect("body")).expect("JSON");
    message.key == aggregate.to_string() && body["payload"].as_i64() == Some(version)
}

pub(crate) struct Running {
    stop: tokio::sync::oneshot::Sender<()>,
    task: JoinHandle<Result<(), RelayError>>,
    freeze: watch::Sender<bool>,
    pub(crate) status: watch::Receiver<RelayStatus>,
}

impl Running {
    pub(crate) fn start(relay: Relay) -> Self {
        let status = relay.status();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (freeze, mut frozen) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut run = Box::pin(relay.run(async { _ = stopped.await }));
            loop {
                tokio::select! {
                    biased;
                    () = becomes(&mut frozen, true) => becomes(&mut frozen, false).await,
                    ended = &mut run => return ended,
                }
            }
        });
        Self { stop, task, freeze, status }
    }

    pub(crate) async fn until(&mut self, what: &str, reached: impl FnMut(&RelayStatus) -> bool) {
        let reached = tokio::time::timeout(PATIENCE, self.status.wait_for(reached)).await.map(|r| r.map(drop));
        assert!(matches!(reached, Ok(Ok(()))), "in vain: {what}; {:?}", *self.status.borrow());
    }

    pub(crate) fn now(&self) -> RelayStatus {
        self.status.borrow().clone()
    }

    pub(crate) async fn stop(self) -> RelayStatus {
        self.stop.send(()).expect("the relay runs");
        tokio::time::timeout(PATIENCE, self.task).await.expect("in time").expect("no panic").expect("no error");
        self.status.borrow().clone()
    }

    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|e| e.is_cancelled()), "it had ended by itself");
    }

    /// The process stops as by SIGSTOP; what the publisher has goes on.
    pub(crate) fn freeze(&self) {
        self.freeze.send_replace(true);
    }

    pub(crate) fn thaw(&self) {
        self.freeze.send_replace(false);
    }
}

async fn becomes(frozen: &mut watch::Receiver<bool>, wanted: bool) {
    frozen.wait_for(|frozen| *frozen == wanted).await.map(drop).expect("held by the test");
}
