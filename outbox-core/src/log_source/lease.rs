use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::Pauses;
use crate::log::{EventLog, Fence, LogErrorKind};

/// Renews in the background, whatever the owner is busy with, until it is dropped or fenced.
pub(super) struct Lease {
    task: JoinHandle<()>,
    lost: watch::Receiver<bool>,
}

impl Lease {
    pub(super) fn keep(log: Arc<dyn EventLog>, fence: Fence, lease: Duration) -> Self {
        let (tell, lost) = watch::channel(false);
        Self { task: tokio::spawn(renew(log, fence, lease, tell)), lost }
    }

    pub(super) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    pub(super) async fn lost(&mut self) {
        if self.lost.wait_for(|lost| *lost).await.is_err() {
            // The task ended without being fenced: only a runtime that shuts down does that.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn renew(log: Arc<dyn EventLog>, fence: Fence, lease: Duration, lost: watch::Sender<bool>) {
    // Two tries fit into a lease, and beside the polls of an idle source renewals are few.
    let every = lease.mul_f64(0.4);
    let mut pauses = Pauses::default();
    loop {
        if pauses.is_growing() {
            pauses.pause().await;
        } else {
            sleep(every).await;
        }
        // A connection that hangs must not keep the next try from being made.
        let problem = match timeout(lease, log.renew(&fence, lease)).await {
            Ok(Ok(())) => {
                pauses.reset();
                continue;
            }
            Ok(Err(error)) if error.kind() == LogErrorKind::Fenced => {
                lost.send_replace(true);
                return;
            }
            Ok(Err(error)) => crate::error::chain(&error),
            Err(_elapsed) => "no answer".to_owned(),
        };
        if !pauses.is_growing() {
            tracing::warn!(consumer = %fence.consumer, error = problem, "the lease could not be renewed; trying again");
        }
        pauses.grow();
    }
}
