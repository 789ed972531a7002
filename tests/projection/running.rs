//! A projector on a task of its own, and how often it asked for something.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, Step},
    retry::Backoff,
    source::{EventSource, Partition, SourcePosition},
};
use outbox_kafka::{KafkaSource, source::KafkaSourceBuilder};
use outbox_projector::{Projector, ProjectorBuilder, ProjectorError, ProjectorStatus};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{PATIENCE, program::SESSION, shop::Shop};

pub(crate) struct Running {
    pub(crate) status: watch::Receiver<ProjectorStatus>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ProjectorError>>,
}

/// Tries again within half a second.
pub(crate) fn projector(source: impl EventSource + 'static, projection: Arc<dyn Projection>) -> ProjectorBuilder {
    let backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    Projector::builder(source, projection).retry(backoff).batch(50)
}

/// A member of the shop's group.
pub(crate) fn source(shop: &Shop) -> KafkaSourceBuilder {
    let session = SESSION.as_millis().to_string();
    KafkaSource::builder(&shop.brokers, &shop.group, [&shop.topic]).setting("session.timeout.ms", session)
}

impl Running {
    pub(crate) fn start(projector: ProjectorBuilder) -> Self {
        let projector = projector.build();
        let status = projector.status();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(projector.run(async { _ = stopped.await }));
        Self { status, stop, task }
    }

    pub(crate) async fn until(&mut self, what: &str, reached: impl FnMut(&ProjectorStatus) -> bool) {
        let in_time = matches!(timeout(PATIENCE, self.status.wait_for(reached)).await, Ok(Ok(_)));
        assert!(in_time, "in vain: {what}; last status {:?}", *self.status.borrow());
    }

    /// Until so many more events have had their effect than now.
    pub(crate) async fn until_applied(&mut self, more: usize) {
        let enough = self.applied() + more;
        self.until(&format!("{more} more are applied"), |status| status.totals().applied >= enough).await;
    }

    pub(crate) fn applied(&self) -> usize {
        self.status.borrow().totals().applied
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        timeout(PATIENCE, self.task).await.expect("stopped in time").expect("no panic").expect("no error");
    }
}

/// Counts the calls of a projection.
pub(crate) struct Counted<P> {
    pub(crate) inner: P,
    pub(crate) calls: Arc<AtomicUsize>,
}

#[async_trait]
impl<P: Projection> Projection for Counted<P> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        self.inner.capabilities()
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.position(partition).await
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.apply(step).await
    }
}
