//! How far each stage is.

use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "production")]
use outbox_core::relay::{RelayState, RelayStatus};
use outbox_core::{
    event::Sequence,
    log::{ConsumerName, EventLog},
};
use outbox_projector::{PartitionState, ProjectorStatus};
use tokio::sync::watch;

/// The stages behind the log, in the order events pass them.
pub(crate) struct Stages {
    pub(crate) log: Arc<dyn EventLog>,
    /// A consumer of the log, by which its head is asked for.
    pub(crate) consumer: ConsumerName,
    pub(crate) behind: Vec<Stage>,
}

pub(crate) enum Stage {
    #[cfg(feature = "production")]
    Relay(RelayStage),
    Index(IndexStage),
}

/// What a stage shows to everybody. The reasons of trouble are for the operator: they are in the program's log.
#[derive(Debug, Clone)]
pub(crate) struct StageView {
    pub(crate) name: &'static str,
    pub(crate) explanation: &'static str,
    pub(crate) state: &'static str,
    /// Whether somebody should look.
    pub(crate) troubled: bool,
    pub(crate) events: Option<u64>,
    /// The highest position in the log that is known to have passed.
    pub(crate) position: u64,
}

impl Stages {
    /// The log first.
    pub(crate) async fn view(&self) -> Vec<StageView> {
        let progress = self.log.progress(&self.consumer).await;
        let mut written = StageView {
            name: "Written",
            explanation: "The change and its event commit in one transaction, so neither exists without the other.",
            state: "ready",
            troubled: false,
            events: None,
            position: 0,
        };
        let mut checkpoint = 0;
        match progress {
            Ok(progress) => (written.position, checkpoint) = (progress.head, progress.position),
            // Until a consumer has run for the first time nobody knows it.
            Err(e) if e.kind() == outbox_core::log::LogErrorKind::UnknownConsumer => {}
            Err(e) => {
                tracing::debug!(error = outbox_core::error::chain(&e), "the log's head cannot be read");
                written.state = "waiting for the database";
                written.troubled = true;
            }
        }
        let mut stages = vec![written];
        for (i, stage) in self.behind.iter().enumerate() {
            let mut view = stage.view();
            if i == 0 {
                // Only the first stage reads the log, so only its progress is the consumer's checkpoint.
                view.position = view.position.max(checkpoint);
            }
            stages.push(view);
        }
        stages
    }
}

impl Stage {
    fn view(&self) -> StageView {
        match self {
            #[cfg(feature = "production")]
            Self::Relay(stage) => stage.view(),
            Self::Index(stage) => stage.view(),
        }
    }
}

/// The projector of the search index. Its status is replaced when it is started again.
#[derive(Clone)]
pub(crate) struct IndexStage(Arc<Mutex<watch::Receiver<ProjectorStatus>>>);

impl Default for IndexStage {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(watch::Sender::default().subscribe())))
    }
}

impl IndexStage {
    pub(crate) fn follow(&self, status: watch::Receiver<ProjectorStatus>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn view(&self) -> StageView {
        let status = self.0.lock().unwrap_or_else(PoisonError::into_inner).borrow().clone();
        let partitions = || status.partitions.values();
        let running = partitions().filter(|p| p.state == PartitionState::Running).count();
        let retrying = partitions().any(|p| matches!(p.state, PartitionState::Retrying { .. }));
        let dead_letters = partitions().any(|p| p.dead_letters > 0);
        let state = match () {
            () if status.needs_action() => "stuck: somebody has to act",
            () if retrying => "waiting for the index",
            () if status.source_error.is_some() => "waiting for events to be reachable",
            () if dead_letters => "running, but some events are dead letters",
            () if running > 0 => "running",
            () => "starting",
        };
        StageView {
            name: "Indexed",
            explanation: "The search index applied the event; searching finds it now.",
            state,
            troubled: status.needs_action() || retrying || dead_letters || status.source_error.is_some(),
            events: Some(status.totals().applied as u64),
            position: partitions().filter_map(|p| p.last_sequence).map(Sequence::position).max().unwrap_or(0),
        }
    }
}

/// The relay to Kafka.
#[cfg(feature = "production")]
pub(crate) struct RelayStage(pub(crate) watch::Receiver<RelayStatus>);

#[cfg(feature = "production")]
impl RelayStage {
    fn view(&self) -> StageView {
        let status = self.0.borrow().clone();
        let state = match status.state {
            RelayState::Active if status.last_error.is_some() => "waiting for Kafka",
            RelayState::Active => "running",
            RelayState::Standby => "standby: another relay is at work",
            RelayState::Stopping => "stopping",
            RelayState::Stopped => "stopped",
            _ => "starting",
        };
        StageView {
            name: "Relayed",
            explanation: "Kafka acknowledged the event; any other service can follow the topic.",
            state,
            troubled: status.last_error.is_some(),
            events: Some(status.published),
            // A checkpoint comes a little later than the last acknowledgement.
            position: if status.published >= status.read { status.read_position } else { status.checkpoint_position },
        }
    }
}
