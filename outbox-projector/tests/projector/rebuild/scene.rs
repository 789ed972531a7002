//! A read model and a source in memory that do what a test says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    memory::MemoryProjection,
    projection::Projection,
    source::{EventSource, Partition, SourceCapabilities, SourceError, SourceEvent, SourcePosition},
};
use outbox_projector::rebuild::{
    Generation, Generations, Rebuild, RebuildError, RebuildErrorKind, RebuildStatus, Sources, Stage, State,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::support::within;

/// What a method does instead of its work, or before it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Fails(RebuildErrorKind),
    Hangs,
    /// The work is done so much later.
    Takes(Duration),
}

/// Everything that a test says, and what was done.
#[derive(Default)]
pub(super) struct Script {
    faults: Mutex<HashMap<&'static str, Fault>>,
    /// How many claims and renewals are granted before the fault of `claim`.
    granted: Mutex<usize>,
    /// What was called, and when.
    calls: Mutex<Vec<(&'static str, Instant)>>,
    /// Of each partition; none: the source does not answer.
    lags: Mutex<HashMap<Partition, (Duration, u64)>>,
    state: Mutex<Option<State>>,
    /// A swap of another rebuild that has not ended before `prepare`.
    swap_under_way: Mutex<bool>,
    /// What is no more asked for, or no more there.
    gone: Mutex<Vec<(&'static str, Generation)>>,
}

pub(super) fn partition(n: usize) -> Partition {
    Partition::new(format!("scripted/{n}"))
}

impl Script {
    pub(super) fn set(&self, method: &'static str, fault: Fault) {
        self.faults.lock().unwrap().insert(method, fault);
    }

    pub(super) fn mend(&self, method: &'static str) {
        self.faults.lock().unwrap().remove(method);
    }

    /// The next claims and renewals are granted, whatever the fault of `claim`.
    pub(super) fn grant(&self, claims: usize) {
        *self.granted.lock().unwrap() = claims;
    }

    /// What the source answers, after so long.
    pub(super) fn set_lag(&self, n: usize, after: Duration, lag: u64) {
        self.lags.lock().unwrap().insert(partition(n), (after, lag));
    }

    pub(super) fn calls(&self, method: &str) -> Vec<Instant> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(called, _)| *called == method).map(|(_, at)| *at).collect()
    }

    /// Generation 2 was begun before.
    pub(super) fn is_begun(&self) {
        let second = Generation::FIRST.next();
        *self.state.lock().unwrap() =
            Some(State { live: Generation::FIRST, building: Some(second), next: second.next() });
    }

    pub(super) fn swap_is_under_way(&self) {
        *self.swap_under_way.lock().unwrap() = true;
    }

    /// Forgotten consumers and discarded generations.
    pub(super) fn gone(&self) -> Vec<(&'static str, Generation)> {
        self.gone.lock().unwrap().clone()
    }

    async fn call(&self, method: &'static str) -> Result<(), RebuildError> {
        self.calls.lock().unwrap().push((method, Instant::now()));
        if method == "claim" {
            let mut granted = self.granted.lock().unwrap();
            if *granted > 0 {
                *granted -= 1;
                return Ok(());
            }
        }
        let fault = self.faults.lock().unwrap().get(method).copied();
        match fault {
            None => {}
            Some(Fault::Fails(kind)) => return Err(RebuildError::new(kind, "on cue")),
            Some(Fault::Hangs) => std::future::pending().await,
            // Not a wait: it is the slow store that the test is about.
            Some(Fault::Takes(time)) => sleep(time).await,
        }
        Ok(())
    }
}

struct Model(Arc<Script>);

#[async_trait]
impl Generations for Model {
    fn name(&self) -> &'static str {
        "model"
    }

    async fn state(&self) -> Result<State, RebuildError> {
        self.0.call("state").await?;
        Ok(self.0.state.lock().unwrap().unwrap_or(State {
            live: Generation::FIRST,
            building: None,
            next: Generation::FIRST.next(),
        }))
    }

    async fn before(&self, generation: Generation) -> Result<Vec<Generation>, RebuildError> {
        Ok([Generation::FIRST].into_iter().filter(|first| *first < generation).collect())
    }

    async fn claim(&self, _: Uuid, lease: Duration) -> Result<(), RebuildError> {
        assert_eq!(lease, Duration::from_secs(15));
        self.0.calls.lock().unwrap().push(("first claim", Instant::now()));
        self.0.call("claim").await
    }

    async fn renew(&self, _: Uuid, lease: Duration) -> Result<(), RebuildError> {
        assert_eq!(lease, Duration::from_secs(15));
        self.0.call("claim").await
    }

    async fn release(&self, _: Uuid) -> Result<(), RebuildError> {
        self.0.call("release").await
    }

    async fn prepare(&self, generation: Generation, _: Option<Uuid>) -> Result<Stage, RebuildError> {
        self.0.call("prepare").await?;
        if *self.0.swap_under_way.lock().unwrap() {
            *self.0.state.lock().unwrap() = Some(State { live: generation, building: None, next: generation.next() });
            return Ok(Stage::Live);
        }
        Ok(Stage::Building)
    }

    fn projection(&self, generation: Generation, _: Stage) -> Arc<dyn Projection> {
        Arc::new(MemoryProjection::new(generation.name("model")))
    }

    async fn swap(&self, to: Generation, _: Uuid) -> Result<(), RebuildError> {
        self.0.call("swap").await?;
        *self.0.state.lock().unwrap() = Some(State { live: to, building: None, next: to.next() });
        Ok(())
    }

    async fn discard(&self, generation: Generation, _: Uuid) -> Result<(), RebuildError> {
        self.0.call("discard").await?;
        self.0.gone.lock().unwrap().push(("generation", generation));
        Ok(())
    }
}

/// One source that is opened once.
struct OneSource {
    script: Arc<Script>,
    source: Mutex<Option<Source>>,
}

#[async_trait]
impl Sources for OneSource {
    fn open(&self, _: Generation, _: Stage) -> Result<Box<dyn EventSource>, SourceError> {
        Ok(Box::new(self.source.lock().unwrap().take().expect("opened once")))
    }

    async fn forget(&self, generation: Generation) -> Result<(), SourceError> {
        self.script.gone.lock().unwrap().push(("consumer", generation));
        Ok(())
    }
}

/// Notes when it is closed, and when it is gone.
struct Source {
    script: Arc<Script>,
    events: mpsc::UnboundedReceiver<SourceEvent>,
}

#[async_trait]
impl EventSource for Source {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::new(false)
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        match self.events.recv().await {
            Some(event) => Ok(event),
            None => std::future::pending().await,
        }
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
        let answer = self.script.lags.lock().unwrap().get(partition).copied();
        let Some((after, lag)) = answer else { return Ok(None) };
        // Not a wait: it is the slow source that the test is about.
        sleep(after).await;
        Ok(Some(lag))
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        self.script.call("close").await.expect("closing only takes its time");
        Ok(())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.script.calls.lock().unwrap().push(("gone", Instant::now()));
    }
}

/// A rebuild of generation 2 that runs.
pub(super) struct Running {
    pub(super) script: Arc<Script>,
    pub(super) began: Instant,
    pub(super) status: watch::Receiver<RebuildStatus>,
    events: mpsc::UnboundedSender<SourceEvent>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Generation, RebuildError>>,
}

impl Running {
    pub(super) fn start(script: Arc<Script>) -> Self {
        Self::start_as(script, |rebuild| rebuild)
    }

    pub(super) fn start_as(script: Arc<Script>, settings: impl FnOnce(Rebuild) -> Rebuild) -> Self {
        let (events, received) = mpsc::unbounded_channel();
        let source = Mutex::new(Some(Source { script: script.clone(), events: received }));
        let sources = OneSource { script: script.clone(), source };
        let rebuild = Rebuild::new(Arc::new(Model(script.clone())), Arc::new(sources)).swap_within(0);
        let rebuild = settings(rebuild);
        let status = rebuild.status();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(rebuild.run(async {
            let _stop = stopped.await;
        }));
        Self { script, began: Instant::now(), status, events, stop, task }
    }

    pub(super) fn say(&self, event: SourceEvent) {
        self.events.send(event).expect("the source is there");
    }

    pub(super) fn assign(&self, partitions: std::ops::Range<usize>) {
        self.say(SourceEvent::Assigned(partitions.map(partition).collect()));
    }

    /// On a clock that is paused: the test does not wait.
    pub(super) async fn at(&self, seconds: u64) {
        tokio::time::sleep_until(self.began + Duration::from_secs(seconds)).await;
    }

    pub(super) async fn until(&mut self, what: &str, reached: impl Fn(&RebuildStatus) -> bool) {
        within(what, self.status.wait_for(|status| reached(status))).await.expect("it runs");
    }

    pub(super) fn error(&self) -> Option<String> {
        self.status.borrow().error.clone()
    }

    /// How it ends by itself, and after how long.
    pub(super) async fn end(self) -> (Result<Generation, RebuildErrorKind>, Duration) {
        let _stop = self.stop;
        let ended = tokio::time::timeout(Duration::from_hours(1), self.task).await.expect("in time").expect("no panic");
        (ended.map_err(|error| error.kind()), self.began.elapsed())
    }

    /// How it ends when it is told to, and after how long.
    pub(super) async fn stop(self) -> (Result<Generation, RebuildErrorKind>, Duration) {
        let told = Instant::now();
        self.stop.send(()).expect("it runs");
        let ended = tokio::time::timeout(Duration::from_hours(1), self.task).await.expect("in time").expect("no panic");
        (ended.map_err(|error| error.kind()), told.elapsed())
    }
}
