//! A relay in a task of its own.

use std::sync::Arc;

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{LaneStatus, Relay, RelayError, RelayErrorKind, RelayStatus};

/// A relay that runs in a task of its own. When it is dropped the relay stops by itself, as [`RelayHandle::stop`] makes
/// it, with nobody waiting for the end.
#[derive(Debug)]
#[must_use = "the relay stops when its handle is dropped"]
pub struct RelayHandle {
    status: watch::Receiver<RelayStatus>,
    lanes: watch::Receiver<Vec<LaneStatus>>,
    stop: Arc<Notify>,
    /// Until its end was told.
    task: Option<JoinHandle<Result<(), RelayError>>>,
}

impl RelayHandle {
    pub(super) fn start(relay: Relay) -> Self {
        let stop = Arc::new(Notify::new());
        let (status, lanes, stopped) = (relay.status(), relay.lanes(), stop.clone());
        let task = tokio::spawn(async move { relay.run(stopped.notified()).await });
        Self { status, lanes, stop, task: Some(task) }
    }

    /// What the relay is doing, live.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RelayStatus> {
        self.status.clone()
    }

    /// Its lanes one by one, live, see [`Relay::lanes`].
    #[must_use]
    pub fn lanes(&self) -> watch::Receiver<Vec<LaneStatus>> {
        self.lanes.clone()
    }

    /// Finishes what is under way, records it, gives the lanes back, and waits for the end: at most
    /// [`stop_within`](super::RelayBuilder::stop_within) and a second.
    ///
    /// # Errors
    /// As [`Relay::run`].
    ///
    /// # Cancellation
    /// The relay stops all the same.
    pub async fn stop(mut self) -> Result<(), RelayError> {
        self.stop.notify_one();
        self.ended().await
    }

    /// Waits until the relay ends by itself, which it does only by an error.
    ///
    /// # Errors
    /// As [`Relay::run`]; [`RelayErrorKind::Crashed`] when its task panicked, or was asked before and had ended.
    ///
    /// # Cancellation
    /// Cancel safe: the relay goes on.
    pub async fn ended(&mut self) -> Result<(), RelayError> {
        let crashed = |why: &'static str| RelayError::new(RelayErrorKind::Crashed, why);
        let Some(task) = &mut self.task else { return Err(crashed("the relay has ended before")) };
        let ended = task.await;
        self.task = None;
        ended.map_err(|error| crashed("the task of the relay did not end by itself").with_source(error))?
    }
}

impl Drop for RelayHandle {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}
