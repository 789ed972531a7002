//! What a lone relay promises while nothing, or everything around it, fails and comes back.

use std::{sync::Arc, time::Duration};

use outbox_core::{
    event::Lane,
    log::EventLog,
    memory::MemoryPublisher,
    profile::Profile,
    publisher::{LaneStream, Permit, PublishError, PublishErrorKind, Publisher, PublisherCapabilities},
    relay::{Relay, RelayState},
};

use crate::support::{Bench, Running, consumer};

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
    assert_eq!(bench.log.progress(&consumer()).await.expect("progress").position, 1000);
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
    inner: MemoryPublisher,
    reservations: Arc<std::sync::atomic::AtomicUsize>,
}

struct MoodyStream {
    inner: Box<dyn LaneStream>,
    reservations: Arc<std::sync::atomic::AtomicUsize>,
}

#[async_trait::async_trait]
impl Publisher for Moody {
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
