//! A source and a projection that do what a test says.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use outbox_core::{
    memory::MemoryProjection,
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, ProjectionErrorKind, Step},
    source::{
        Batch, EventSource, Partition, SourceCapabilities, SourceError, SourceErrorKind, SourceEvent, SourcePosition,
        SourceRecord,
    },
    testing::{FaultyProjection, Sequencer},
};
use tokio::sync::{Notify, mpsc};

use crate::support::counted;

/// What a source says of how much is to come.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lag {
    Is(u64),
    IsAfter(Duration, u64),
    Fails,
    NeverSaid,
}

/// A source and its script.
pub(super) struct Script {
    lags: Mutex<HashMap<Partition, Lag>>,
    otherwise: Mutex<Lag>,
    /// In the order in which they were asked for.
    asked: Mutex<Vec<Partition>>,
    pub(super) is_asked: Notify,
    waits: AtomicUsize,
    events: mpsc::UnboundedSender<Result<SourceEvent, SourceError>>,
    sent: AtomicUsize,
    sequencer: Sequencer,
}

pub(super) struct Scripted {
    script: Arc<Script>,
    events: mpsc::UnboundedReceiver<Result<SourceEvent, SourceError>>,
}

pub(super) fn partition(n: usize) -> Partition {
    Partition::new(format!("scripted/{n:02}"))
}

/// A source that assigns so many partitions at once.
pub(super) fn scripted(partitions: usize, lag: Lag) -> (Arc<Script>, Scripted) {
    let (sender, events) = mpsc::unbounded_channel();
    let script = Arc::new(Script {
        lags: Mutex::default(),
        otherwise: Mutex::new(lag),
        asked: Mutex::default(),
        is_asked: Notify::new(),
        waits: AtomicUsize::new(0),
        events: sender,
        sent: AtomicUsize::new(0),
        sequencer: Sequencer::default(),
    });
    script.say(SourceEvent::Assigned((0..partitions).map(partition).collect()));
    (script.clone(), Scripted { script, events })
}

impl Script {
    pub(super) fn say(&self, event: SourceEvent) {
        self.events.send(Ok(event)).expect("the source is there");
    }

    pub(super) fn fail(&self, kind: SourceErrorKind) {
        let error = SourceError::new(kind, "the script says so");
        self.events.send(Err(error)).expect("the source is there");
    }

    /// Of all partitions.
    pub(super) fn set_lag(&self, lag: Lag) {
        self.lags.lock().unwrap().clear();
        *self.otherwise.lock().unwrap() = lag;
    }

    pub(super) fn set_lag_of(&self, n: usize, lag: Lag) {
        self.lags.lock().unwrap().insert(partition(n), lag);
    }

    pub(super) fn deliver(&self, n: usize, created_at: DateTime<Utc>) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let mut event = self.sequencer.receive(counted("key", number as i64));
        event.event.created_at = created_at;
        let position = SourcePosition::from_text(number.to_string());
        self.say(SourceEvent::Batch(Batch {
            partition: partition(n),
            records: vec![SourceRecord::event(event)],
            position,
        }));
    }

    /// How often somebody began to wait for the next thing.
    pub(super) fn waits(&self) -> usize {
        self.waits.load(Ordering::Relaxed)
    }

    pub(super) fn asked(&self) -> Vec<Partition> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl EventSource for Scripted {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::new(false)
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        self.script.waits.fetch_add(1, Ordering::Relaxed);
        self.events.recv().await.expect("the script outlives the source")
    }

    async fn start(&mut self, _: &Partition, _: Option<&SourcePosition>) -> Result<(), SourceError> {
        Ok(())
    }

    async fn commit(&mut self, _: &Partition, _: &SourcePosition) -> Result<(), SourceError> {
        Ok(())
    }

    async fn pause(&mut self, _: &Partition) -> Result<(), SourceError> {
        Ok(())
    }

    async fn resume(&mut self, _: &Partition) -> Result<(), SourceError> {
        Ok(())
    }

    async fn lag(&mut self, partition: &Partition, _: Option<&SourcePosition>) -> Result<Option<u64>, SourceError> {
        self.script.asked.lock().unwrap().push(partition.clone());
        self.script.is_asked.notify_one();
        let own = self.script.lags.lock().unwrap().get(partition).copied();
        let lag = own.unwrap_or_else(|| *self.script.otherwise.lock().unwrap());
        match lag {
            Lag::Is(lag) => Ok(Some(lag)),
            Lag::IsAfter(delay, lag) => {
                // Not a wait: it is the slow source that the test is about.
                tokio::time::sleep(delay).await;
                Ok(Some(lag))
            }
            Lag::Fails => Err(SourceError::new(SourceErrorKind::Unavailable, "the broker is away")),
            Lag::NeverSaid => std::future::pending().await,
        }
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}

/// A store that can be away.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) inner: FaultyProjection<MemoryProjection>,
    away: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
}

impl Store {
    pub(super) fn of(inner: MemoryProjection) -> Self {
        Self { inner: FaultyProjection::new(inner), away: Arc::default(), calls: Arc::default() }
    }

    pub(super) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// How often it was asked for anything.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn call(&self) -> Result<(), ProjectionError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(ProjectionError::new(ProjectionErrorKind::Unavailable, "the store is away"));
        }
        Ok(())
    }
}

#[async_trait]
impl Projection for Store {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        self.inner.capabilities()
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        self.call()?;
        self.inner.position(partition).await
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        self.call()?;
        self.inner.apply(step).await
    }
}
