use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{Inbox, InboxDatabase};

/// Removes old claims now and then, on a task of its own that ends with its owner.
pub(super) struct Retention {
    pub(super) keep_for: Duration,
    last: Mutex<Option<Round>>,
}

struct Round {
    begun: Instant,
    task: JoinHandle<()>,
}

impl Round {
    fn is_past(&self, now: Instant) -> bool {
        self.task.is_finished() && now.saturating_duration_since(self.begun) >= EVERY
    }
}

/// How often.
const EVERY: Duration = Duration::from_mins(5);

/// So many by one statement: few enough to keep its locks for milliseconds.
const AT_ONCE: u32 = 1_000;

impl Retention {
    pub(super) const SHORTEST: Duration = Duration::from_hours(1);

    pub(super) fn new() -> Self {
        Self { keep_for: Duration::from_hours(30 * 24), last: Mutex::new(None) }
    }

    /// Begins a round when one is due.
    pub(super) fn look_after<DB: InboxDatabase>(&self, inbox: &Inbox<DB>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|round| !round.is_past(Instant::now())) {
            return;
        }
        let task = tokio::spawn(prune(inbox.clone(), self.keep_for));
        *last = Some(Round { begun: Instant::now(), task });
    }
}

impl Drop for Retention {
    fn drop(&mut self) {
        let last = self.last.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(round) = last.take() {
            round.task.abort();
        }
    }
}

/// Until nothing old is left: a fixed number a round would fall behind a busy topic.
async fn prune<DB: InboxDatabase>(inbox: Inbox<DB>, keep_for: Duration) {
    loop {
        match inbox.prune(keep_for, AT_ONCE).await {
            Ok(removed) if removed == u64::from(AT_ONCE) => {}
            Ok(_) => break,
            Err(error) => {
                let consumer = inbox.consumer.as_str();
                tracing::warn!(consumer, %error, "old claims could not be removed; the next round tries again");
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_round_is_past_when_it_has_ended_and_its_time_too() {
        let (end, ended) = oneshot::channel::<()>();
        let task = tokio::spawn(async {
            let _either_way = ended.await;
        });
        let begun = Instant::now();
        let mut round = Round { begun, task };
        assert!(!round.is_past(begun + EVERY), "it still runs");
        drop(end);
        (&mut round.task).await.expect("no panic");
        assert!(!round.is_past(begun + EVERY / 2), "the next is not due");
        assert!(round.is_past(begun + EVERY));
    }
}
