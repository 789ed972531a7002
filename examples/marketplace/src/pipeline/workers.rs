//! Background work that is started again until it is told to stop.

use std::{future::Future, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::sleep};

/// Tells when to stop.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

/// Gives the order to stop.
pub(crate) struct StopSender(watch::Sender<bool>);

impl StopSender {
    pub(crate) fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    pub(crate) fn pair() -> (StopSender, Self) {
        let (sender, receiver) = watch::channel(false);
        (StopSender(sender), Self(receiver))
    }

    /// Waits for the stop. Cancel safe.
    pub(crate) async fn stopped(&mut self) {
        // A sender that is gone means the same.
        let _stopped = self.0.wait_for(|stop| *stop).await;
    }
}

/// The running background work.
pub(crate) struct Workers {
    running: JoinSet<()>,
    sender: StopSender,
    stop: Stop,
}

/// What ended by itself needs somebody to act; until then it is tried again this often.
const PAUSE: Duration = Duration::from_secs(5);

impl Default for Workers {
    fn default() -> Self {
        let (sender, stop) = Stop::pair();
        Self { running: JoinSet::new(), sender, stop }
    }
}

impl Workers {
    /// Runs `work` until it ends well, which it should only when told to stop. When it fails it is run again.
    pub(crate) fn spawn<F, E>(&mut self, name: &'static str, mut work: impl FnMut(Stop) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), E>> + Send,
        E: Into<anyhow::Error> + Send,
    {
        let mut stop = self.stop.clone();
        self.running.spawn(async move {
            while let Err(error) = work(stop.clone()).await {
                let error: anyhow::Error = error.into();
                tracing::error!("the {name} stopped and is started again soon: {error:#}");
                drop(error);
                tokio::select! {
                    () = stop.stopped() => return,
                    () = sleep(PAUSE) => {}
                }
            }
        });
    }

    /// Tells all to stop and waits until they have finished what is under way.
    pub(crate) async fn stop(mut self) {
        self.sender.stop();
        while let Some(ended) = self.running.join_next().await {
            if let Err(panicked) = ended {
                tracing::error!(error = %panicked, "background work ended badly");
            }
        }
    }
}
