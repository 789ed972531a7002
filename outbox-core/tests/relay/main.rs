//! The relay with in-memory adapters that fail on cue. Time is tokio's, so pauses cost nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use outbox_core::{
    event::{Lane, NewEvent},
    log::{ConsumerName, EventLog, LogErrorKind, MemberId, StartAt},
    memory::{MemoryBroker, MemoryLog},
    outbox::Outbox,
    profile::Profile,
    publisher::{LaneStream, Permit, PublishError, PublishErrorKind, PublisherCapabilities},
    relay::{Relay, RelayErrorKind, RelayState, RelayStatus},
    testing::{FaultyLog, FaultyPublisher, LogOperation, PATIENCE},
};
use tokio::{sync::watch, task::JoinHandle};

const TOPIC: &str = "agg-events";

type Log = FaultyLog<MemoryLog>;
type Publisher = FaultyPublisher<outbox_core::memory::MemoryPublisher>;

struct Bench {
    log: Arc<Log>,
    broker: MemoryBroker,
    publisher: Arc<Publisher>,
    versions: HashMap<i64, i64>,
}

impl Bench {
    fn new() -> Self {
        let broker = MemoryBroker::default();
        let publisher = Arc::new(FaultyPublisher::new(broker.publisher()));
        Self { log: Arc::new(FaultyLog::new(MemoryLog::default())), broker, publisher, versions: HashMap::new() }
    }

    /// One event for each of these aggregates, in this order, in one transaction.
    async fn change(&mut self, aggregates: impl IntoIterator<Item = i64>) {
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

    fn relay(&self) -> outbox_core::relay::RelayBuilder {
        Relay::builder(self.log.clone(), self.publisher.clone(), Profile::default())
    }

    fn events(&self) -> usize {
        self.versions.values().sum::<i64>() as usize
    }

    /// Every event arrived, and first deliveries count up; returns how many came twice.
    async fn assert_complete(&self) -> usize {
        let mut count = self.events();
        loop {
            let messages = self.broker.wait_for(TOPIC, count).await;
            let mut seen = HashSet::new();
            let mut last: HashMap<Vec<u8>, i64> = HashMap::new();
            for message in &messages {
                let body: serde_json::Value =
                    serde_json::from_slice(message.payload.as_ref().expect("body")).expect("JSON");
                if seen.insert(body["event_id"].to_string()) {
                    let last = last.entry(message.key.to_vec()).or_default();
                    assert_eq!(body["payload"].as_i64(), Some(*last + 1), "key {:?}", message.key);
                    *last += 1;
                }
            }
            if seen.len() == self.events() {
                return messages.len() - seen.len();
            }
            count = messages.len() + 1;
        }
    }
}

struct Running {
    stop: tokio::sync::oneshot::Sender<()>,
    task: JoinHandle<Result<(), outbox_core::relay::RelayError>>,
    status: watch::Receiver<RelayStatus>,
}

impl Running {
    fn start(relay: Relay) -> Self {
        let status = relay.status();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move { relay.run(async { _ = stopped.await }).await });
        Self { stop, task, status }
    }

    async fn until(&mut self, what: &str, reached: impl FnMut(&RelayStatus) -> bool) {
        let reached = tokio::time::timeout(PATIENCE, self.status.wait_for(reached)).await.map(|r| r.map(drop));
        assert!(matches!(reached, Ok(Ok(()))), "in vain: {what}; {:?}", *self.status.borrow());
    }

    async fn stop(self) -> RelayStatus {
        self.stop.send(()).expect("the relay runs");
        tokio::time::timeout(PATIENCE, self.task).await.expect("in time").expect("no panic").expect("no error");
        self.status.borrow().clone()
    }

    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|e| e.is_cancelled()), "it had ended by itself");
    }
}

#[tokio::test(start_paused = true)]
async fn everything_arrives_in_order_and_is_recorded() {
    let mut bench = Bench::new();
    bench.change((0..500).map(|n| n % 37)).await;
    let mut running = Running::start(bench.relay().batch(64).window(200).build());
    running.until("published", |s| s.published == 500).await;
    bench.change((0..500).map(|n| n % 41)).await;
    running.until("published", |s| s.published == 1000).await;
    let status = running.stop().await;
    assert_eq!(bench.assert_complete().await, 0, "no failure, no duplicate");
    assert_eq!((status.state, status.in_flight, status.checkpoint_position), (RelayState::Stopped, 0, 1000));
    let consumer = ConsumerName::parse("relay").expect("name");
    assert_eq!(bench.log.progress(&consumer).await.expect("progress").position, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_commit_wakes_an_idle_relay_before_its_poll() {
    let mut bench = Bench::new();
    let mut running =
        Running::start(bench.relay().poll(Duration::from_hours(1)).lease(Duration::from_hours(10)).build());
    running.until("active", |s| s.state == RelayState::Active).await;
    // Long enough for the polls to have grown apart.
    tokio::time::advance(Duration::from_hours(2)).await;
    let begin = tokio::time::Instant::now();
    bench.change([1]).await;
    running.until("published", |s| s.published == 1).await;
    assert!(begin.elapsed() < Duration::from_mins(1), "waited for its poll: {:?}", begin.elapsed());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_fails_loses_nothing_and_overtakes_nothing() {
    let mut bench = Bench::new();
    bench.change((0..400).map(|n| n % 10)).await;
    let mut running = Running::start(bench.relay().batch(32).window(100).build());
    for failures in 1..30 {
        bench.publisher.fail_next(failures % 5 + 1, PublishErrorKind::Environment);
        bench.publisher.fail_reserve(failures % 3, PublishErrorKind::Environment);
        bench.change((0..40).map(|n| n % 10)).await;
        let events = bench.events() as u64;
        running.until("published", |s| s.published == events).await;
    }
    let status = running.stop().await;
    assert!(status.failed > 0);
    assert_eq!(status.last_error, None, "what passed is not shown any more");
    bench.assert_complete().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_refused_holds_its_lane_and_no_other_and_is_not_lost() {
    let mut bench = Bench::new();
    bench.publisher.refuse_if(PublishErrorKind::Event, |message| &message.key[..] == b"3");
    bench.change([1, 2, 3, 3, 4, 5]).await;
    let mut running = Running::start(bench.relay().build());
    running.until("the others are published", |s| s.published == 4 && !s.paused.is_empty()).await;
    let consumer = ConsumerName::parse("relay").expect("name");
    assert_eq!(bench.log.progress(&consumer).await.expect("progress").position, 0, "it is not passed over");
    assert!(running.status.borrow().last_error.is_some());
    bench.publisher.heal();
    running.until("the rest is published", |s| s.published == 6).await;
    running.stop().await;
    bench.assert_complete().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_away_is_waited_for() {
    let mut bench = Bench::new();
    let mut running = Running::start(bench.relay().build());
    for operation in [LogOperation::Read, LogOperation::Checkpoint, LogOperation::Renew] {
        bench.log.fail_next(operation, 5, LogErrorKind::Unavailable);
        bench.change(0..20).await;
        let (events, log) = (bench.events() as u64, bench.log.clone());
        running
            .until("published and recorded in spite of failures", |s| {
                s.published == events && s.checkpoint_position == events && log.failures_left() == 0
            })
            .await;
    }
    running.stop().await;
    assert_eq!(bench.assert_complete().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_away_at_the_start_is_waited_for() {
    let mut bench = Bench::new();
    bench.log.fail_next(LogOperation::Register, 3, LogErrorKind::Unavailable);
    bench.log.fail_next(LogOperation::Join, 3, LogErrorKind::Unavailable);
    bench.change(0..5).await;
    let mut running = Running::start(bench.relay().build());
    running.until("published", |s| s.published == 5).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_waiting_cannot_mend_ends_the_relay() {
    let bench = Bench::new();
    bench.log.fail_next(LogOperation::Read, 1, LogErrorKind::NotMigrated);
    let relay = bench.relay().build();
    let status = relay.status();
    let error = relay.run(std::future::pending()).await.expect_err("not migrated");
    assert_eq!(error.kind(), RelayErrorKind::Log(LogErrorKind::NotMigrated));
    assert_eq!(status.borrow().state, RelayState::Stopped);

    let mut bench = Bench::new();
    bench.publisher.fail_next(1, PublishErrorKind::Configuration);
    bench.change([1]).await;
    let error = bench.relay().build().run(std::future::pending()).await.expect_err("configuration");
    assert_eq!(error.kind(), RelayErrorKind::Publisher);
}

#[tokio::test(start_paused = true)]
async fn a_killed_relay_is_taken_over_after_its_lease() {
    let mut bench = Bench::new();
    for round in 0..10 {
        bench.change((0..60).map(|n| n % 7)).await;
        let mut doomed = Running::start(bench.relay().batch(16).window(32).build());
        let some = round % 4 * 10;
        doomed.until("some are published", |s| s.state == RelayState::Active && s.published >= some).await;
        doomed.kill().await;
    }
    let mut last = Running::start(bench.relay().build());
    last.until("owns the lanes", |s| s.state == RelayState::Active).await;
    bench.assert_complete().await;
    last.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fenced_relay_records_nothing_and_joins_again() {
    let mut bench = Bench::new();
    let consumer = ConsumerName::parse("relay").expect("name");
    let lease = Duration::from_secs(6);
    let mut running = Running::start(bench.relay().lease(lease).build());
    running.until("active", |s| s.state == RelayState::Active).await;

    // The relay cannot renew for longer than its lease, as one that was frozen.
    bench.log.fail_next(LogOperation::Renew, usize::MAX / 2, LogErrorKind::Unavailable);
    let usurper = loop {
        bench.log.inner().register(&consumer, StartAt::Beginning).await.expect("register");
        match bench.log.inner().join(&consumer, MemberId::random(), lease).await.expect("join") {
            Some(assignment) => break assignment,
            None => tokio::time::advance(Duration::from_millis(500)).await,
        }
    };
    bench.change([1, 2, 3]).await;
    running.until("fenced by its checkpoint", |s| s.fenced == 1 && s.state == RelayState::Standby).await;
    assert_eq!(bench.log.inner().progress(&consumer).await.expect("progress").position, 0);

    bench.log.inner().leave(&usurper.fence).await.expect("leave");
    running.until("published after joining again", |s| s.published >= 3 && s.checkpoint_position == 3).await;
    bench.assert_complete().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_what_is_under_way_but_not_for_ever() {
    let mut bench = Bench::new();
    bench.publisher.hold();
    bench.change(0..10).await;
    let mut running = Running::start(bench.relay().stop_within(Duration::from_secs(5)).build());
    running.until("under way", |s| s.in_flight == 10).await;
    let begin = tokio::time::Instant::now();
    let status = running.stop().await;
    assert!(begin.elapsed() >= Duration::from_secs(5), "gave up early");
    assert_eq!(status.checkpoint_position, 0, "nothing was acknowledged");

    let mut patient = Running::start(bench.relay().build());
    bench.publisher.release();
    patient.until("published by the next owner", |s| s.published == 10).await;
    patient.stop().await;
    bench.assert_complete().await;
}

/// Fails a reservation now and then, and goes on as if nothing had happened: the contract allows it.
struct Moody {
    inner: outbox_core::memory::MemoryPublisher,
    reservations: Arc<std::sync::atomic::AtomicUsize>,
}

struct MoodyStream {
    inner: Box<dyn LaneStream>,
    reservations: Arc<std::sync::atomic::AtomicUsize>,
}

#[async_trait::async_trait]
impl outbox_core::publisher::Publisher for Moody {
    fn capabilities(&self) -> PublisherCapabilities {
        self.inner.capabilities()
    }

    async fn open(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        Ok(Box::new(MoodyStream { inner: self.inner.open(lane).await?, reservations: self.reservations.clone() }))
    }

    async fn shut_down(&self, grace: Duration) -> bool {
        self.inner.shut_down(grace).await
    }
}

#[async_trait::async_trait]
impl LaneStream for MoodyStream {
    async fn reserve(&mut self, messages: usize, bytes: usize) -> Result<Box<dyn Permit>, PublishError> {
        if self.reservations.fetch_add(1, std::sync::atomic::Ordering::Relaxed).is_multiple_of(3) {
            return Err(PublishError::new(PublishErrorKind::Environment, "not now"));
        }
        self.inner.reserve(messages, bytes).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_behind_one_that_found_no_room_waits_for_it() {
    let mut bench = Bench::new();
    bench.change([1; 50]).await;
    let moody = Moody { inner: bench.broker.publisher(), reservations: Arc::default() };
    let relay = Relay::builder(bench.log.clone(), Arc::new(moody), Profile::default()).batch(1).build();
    let mut running = Running::start(relay);
    running.until("published", |s| s.published == 50).await;
    running.stop().await;
    assert_eq!(bench.assert_complete().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_panics_holds_its_lane_and_says_so() {
    let mut bench = Bench::new();
    bench.change([1, 2, 3]).await;
    let profile = Profile::default().with_router(|event: &outbox_core::event::Event| {
        assert_ne!(event.aggregate_id.as_str(), "2", "a router with a fault");
        TOPIC.to_owned()
    });
    let relay = Relay::builder(bench.log.clone(), bench.publisher.clone(), profile).build();
    let mut running = Running::start(relay);
    running.until("the others pass", |s| s.published == 2 && s.last_error.is_some()).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_ends_by_an_error_gives_its_lanes_back() {
    let mut bench = Bench::new();
    bench.change([1]).await;
    bench.publisher.fail_next(1, PublishErrorKind::Configuration);
    bench.relay().lease(Duration::from_hours(10)).build().run(std::future::pending()).await.expect_err("configuration");
    let mut next = Running::start(bench.relay().poll(Duration::from_secs(1)).build());
    let begin = tokio::time::Instant::now();
    next.until("published", |s| s.published == 1).await;
    assert!(begin.elapsed() < Duration::from_hours(1), "waited for the lease");
    next.stop().await;
}
