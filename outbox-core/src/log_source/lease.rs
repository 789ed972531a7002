use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::Pauses;
use crate::log::{Assignment, EventLog, Fence, LogErrorKind, Renewal, Track};

/// A membership that is renewed in the background, whatever its holder is busy with, until it is dropped or over.
pub(super) struct Lease {
    task: JoinHandle<()>,
    standing: watch::Receiver<Standing>,
}

/// How the log sees a member.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// The membership is over, or nobody knows what the log has given.
    pub(super) lost: bool,
    /// An operator paused the consumer.
    pub(super) paused: bool,
    /// What the log has given so far.
    pub(super) tracks: Vec<Track>,
}

impl Lease {
    /// A member without lanes asks for them about every `poll`, and at least as often as it renews.
    pub(super) fn keep(log: Arc<dyn EventLog>, assignment: Assignment, lease: Duration, poll: Duration) -> Self {
        let Assignment { fence, tracks, paused } = assignment;
        let (tell, standing) = watch::channel(Standing { lost: false, paused, tracks });
        Self { task: tokio::spawn(renew(log, fence, lease, poll, tell)), standing }
    }

    /// How it is now; [`Lease::changed`] waits for something else.
    pub(super) fn standing(&mut self) -> Standing {
        self.standing.borrow_and_update().clone()
    }

    pub(super) async fn changed(&mut self) {
        if self.standing.changed().await.is_err() && !self.standing.borrow().lost {
            // The task ended with the membership intact: only a runtime that shuts down does that.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn renew(log: Arc<dyn EventLog>, fence: Fence, lease: Duration, poll: Duration, tell: watch::Sender<Standing>) {
    // Two tries fit into a lease, and beside the polls of an idle source renewals are few.
    let every = lease.mul_f64(0.4);
    let mut pauses = Pauses::default();
    loop {
        let owns = !tell.borrow().tracks.is_empty();
        if pauses.is_growing() {
            pauses.pause().await;
        } else if owns {
            sleep(every).await;
        } else {
            sleep(poll.mul_f64(rand::random_range(0.75..1.25)).min(every)).await;
        }
        // A connection that hangs must not keep the next try from being made.
        let problem = match timeout(lease, log.renew(&fence, lease)).await {
            Ok(Ok(Renewal { gained, paused, .. })) => {
                pauses.reset();
                tell.send_if_modified(|standing| {
                    let changes = standing.paused != paused || !gained.is_empty();
                    standing.paused = paused;
                    standing.tracks.extend(gained);
                    changes
                });
                continue;
            }
            Ok(Err(error)) if error.kind() == LogErrorKind::Fenced => {
                tell.send_modify(|standing| standing.lost = true);
                return;
            }
            Ok(Err(error)) => crate::error::chain(&error),
            Err(_elapsed) => "no answer".to_owned(),
        };
        if !owns {
            // Lanes may have been given by an answer that never came; only joining again tells.
            tell.send_modify(|standing| standing.lost = true);
            return;
        }
        if !pauses.is_growing() {
            tracing::warn!(consumer = %fence.consumer, error = problem, "the lease could not be renewed; trying again");
        }
        pauses.grow();
    }
}
