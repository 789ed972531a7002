//! Running a projector in a test, and waiting for what it does.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use outbox_core::{
    event::{LaneCount, NewEvent, ReceivedEvent, RecordedEvent},
    memory::MemoryLog,
    outbox::Outbox,
    profile::{Encoder, SeedEnvelope},
    projection::{DeadLetter, Projection},
    retry::Backoff,
    source::{EventSource, Partition, RawRecord},
};
use outbox_projector::{Projector, ProjectorBuilder, ProjectorError, ProjectorStatus};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

/// How long a test waits for what has to happen. Long, because it only costs time when it does not.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// A projector on its own task.
pub(crate) struct Running {
    pub(crate) status: watch::Receiver<ProjectorStatus>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ProjectorError>>,
}

/// Retries within milliseconds.
pub(crate) fn projector(source: impl EventSource + 'static, projection: Arc<dyn Projection>) -> ProjectorBuilder {
    let fast = Backoff::new(Duration::from_millis(5), Duration::from_millis(50));
    Projector::builder(source, projection).retry(fast)
}

impl Running {
    pub(crate) fn start(projector: ProjectorBuilder) -> Self {
        let projector = projector.build();
        let status = projector.status();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(projector.run(async {
            let _ended_with_the_test = stopped.await;
        }));
        Self { status, stop, task }
    }

    pub(crate) async fn until(&mut self, what: &str, reached: impl Fn(&ProjectorStatus) -> bool) -> ProjectorStatus {
        let waited = timeout(PATIENCE, self.status.wait_for(|status| reached(status))).await;
        let waited = waited.map(|status| status.map(|status| status.clone()));
        let why = match waited {
            Ok(Ok(status)) => return status,
            Ok(Err(_)) => "the projector ended before",
            Err(_) => "waited in vain for",
        };
        panic!("{why}: {what}; last status {:?}", *self.status.borrow());
    }

    /// Until so many events were applied in all.
    pub(crate) async fn until_applied(&mut self, count: usize) -> ProjectorStatus {
        self.until(&format!("{count} events applied"), |status| status.totals().applied >= count).await
    }

    pub(crate) async fn stop(self) -> Result<(), ProjectorError> {
        self.stop.send(()).ok();
        within("the projector's end", self.task).await.expect("no panic")
    }

    /// How it ends by itself.
    pub(crate) async fn end(self) -> Result<(), ProjectorError> {
        within("the projector's end", self.task).await.expect("no panic")
    }

    /// Ends it as a crash does: nothing is said to anybody.
    pub(crate) async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.expect_err("aborted").is_cancelled());
    }
}

/// `{"n": n}` of the aggregate `Suite/key`.
pub(crate) fn counted(key: &str, n: i64) -> NewEvent {
    NewEvent::json("Suite", key, "Counted", &serde_json::json!({ "n": n })).expect("event")
}

/// Appends in a transaction of its own and rings the bell.
pub(crate) async fn append(log: &MemoryLog, events: &[NewEvent]) {
    let mut tx = log.begin();
    let receipt = log.append(&mut tx, events).await.expect("append");
    tx.commit().await;
    receipt.committed();
}

/// An event that was given up, with the record that it was decoded from.
pub(crate) fn rejected(received: &ReceivedEvent) -> DeadLetter {
    DeadLetter::rejected(&Partition::new("p"), received.clone(), Some(record(received)), "it is bad", 3)
}

/// As the default encoder writes the event.
pub(crate) fn record(received: &ReceivedEvent) -> RawRecord {
    let lane = LaneCount::default().lane_of(&received.event.lane_key());
    let recorded =
        RecordedEvent { origin: received.origin.expect("an event of a log"), lane, event: received.event.clone() };
    let encoded = SeedEnvelope.encode(&recorded).expect("encoded");
    let key = Some(Bytes::from(received.event.message_key().to_owned()));
    let offset = recorded.origin.sequence.position();
    RawRecord { offset, key, payload: encoded.payload, headers: encoded.headers }
}
