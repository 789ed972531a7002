//! Removing what every consumer has passed, every now and then.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::RngExt;
use tokio::time::Instant;

use crate::{
    log::{LogAdmin, LogError, LogErrorKind, Pruned, RetentionPolicy},
    retry::Backoff,
};

const LEAST: Duration = Duration::from_millis(1);

/// How long a round may take. Far more than one needs: a connection whose other side vanished would be waited for without
/// end.
const ROUND: Duration = Duration::from_mins(5);

/// Prunes a log as long as it runs: [`LogAdmin::prune`] again and again.
///
/// Nothing else does: relays and projections never remove an event. Run one beside a relay, or several in several
/// processes: two at the same log do not disturb each other. A log without one works, and grows.
///
/// ```
/// # use std::{sync::Arc, time::Duration};
/// # use outbox_core::{log::{LogAdmin, RetentionPolicy}, retention::Pruner};
/// # fn start(log: Arc<dyn LogAdmin>, stopped: impl Future<Output = ()> + Send + 'static) {
/// let week = RetentionPolicy::default().keep_for(Duration::from_secs(7 * 24 * 3600));
/// tokio::spawn(async move { Pruner::new(log, week).run(stopped).await });
/// # }
/// ```
#[derive(Clone)]
#[must_use = "does nothing until it is run"]
pub struct Pruner {
    log: Arc<dyn LogAdmin>,
    policy: RetentionPolicy,
    every: Duration,
    backoff: Backoff,
    last: Arc<Mutex<Option<Pruned>>>,
}

impl fmt::Debug for Pruner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pruner").field("policy", &self.policy).field("every", &self.every).finish_non_exhaustive()
    }
}

impl Pruner {
    /// Every minute.
    pub fn new(log: Arc<dyn LogAdmin>, policy: RetentionPolicy) -> Self {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        Self { log, policy, every: Duration::from_mins(1), backoff, last: Arc::default() }
    }

    /// How long to rest when nothing is left to remove, give or take a tenth, so that many processes do not come at
    /// once. Default: a minute; at least a millisecond. While there is more to remove, it rests for as long as the last
    /// round took.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every.max(LEAST);
        self
    }

    /// How long to wait after an error. Default: a second, growing to a minute, with full jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// What the last round did that succeeded.
    #[must_use]
    pub fn last(&self) -> Option<Pruned> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs until `shutdown` completes; a step under way is then given up, which takes nothing back.
    ///
    /// Errors of every kind are logged and waited for: an operator may mend what waiting does not, and a log that is
    /// not pruned still works. So is a round that takes more than five minutes: it is given up, and what its steps have
    /// removed stays removed.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) {
        tokio::select! {
            () = shutdown => {}
            () = self.rounds() => {}
        }
    }

    async fn rounds(&self) {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let done = limited(self.log.prune(&self.policy)).await;
            tokio::time::sleep(self.wait_after(done, began.elapsed(), &mut failures)).await;
        }
    }

    fn wait_after(&self, done: Result<Pruned, LogError>, took: Duration, failures: &mut u32) -> Duration {
        match done {
            Ok(pruned) => {
                *failures = 0;
                self.rest(pruned, took)
            }
            Err(error) => self.after(&error, failures),
        }
    }

    fn rest(&self, pruned: Pruned, took: Duration) -> Duration {
        if pruned.removed > 0 {
            tracing::debug!(removed = pruned.removed, more = pruned.more, "events that every consumer had passed");
        }
        if let Some(consumer) = &pruned.held_back_by {
            tracing::debug!(%consumer, "retention waits for a consumer");
        }
        // Half of the time is for others, also while there is more to do.
        let wait = if pruned.more { took.clamp(LEAST, self.every) } else { self.every.mul_f64(jitter()) };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(pruned);
        wait
    }

    fn after(&self, error: &LogError, failures: &mut u32) -> Duration {
        let reason = crate::error::chain(error);
        if error.kind().passes() {
            tracing::warn!(reason, "retention waits for the database");
        } else {
            tracing::error!(reason, "retention cannot work; the log grows until somebody acts");
        }
        let wait = self.backoff.delay(*failures, &mut rand::rng());
        *failures = failures.saturating_add(1);
        wait
    }
}

async fn limited(round: impl Future<Output = Result<Pruned, LogError>>) -> Result<Pruned, LogError> {
    tokio::time::timeout(ROUND, round).await.unwrap_or_else(|_elapsed| {
        Err(LogError::new(LogErrorKind::Unavailable, format!("the log was not pruned within {ROUND:?}")))
    })
}

fn jitter() -> f64 {
    rand::rng().random_range(0.9..1.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::NewEvent,
        log::{Claim, ConsumerName, EventLog as _, MemberId, StartAt, Track},
        memory::MemoryLog,
        outbox::Outbox as _,
    };

    const HOUR: Duration = Duration::from_hours(1);

    fn pruner(log: &MemoryLog) -> Pruner {
        Pruner::new(Arc::new(log.clone()), RetentionPolicy::default()).every(HOUR)
    }

    #[tokio::test(start_paused = true)]
    async fn prunes_now_and_then_until_it_is_stopped() {
        let log = MemoryLog::default();
        let consumer = ConsumerName::parse("relay").expect("name");
        log.register(&consumer, StartAt::Beginning).await.expect("register");
        let member = log.join(&consumer, MemberId::random(), Claim::All, 100 * HOUR).await.expect("join");
        let lanes = member.lanes();
        let mut cursor = member.tracks[0].cursor.clone();

        let pruner = pruner(&log);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn({
            let pruner = pruner.clone();
            async move { pruner.run(async { drop(stopped.await) }).await }
        });
        for _ in 0..3 {
            let mut tx = log.begin();
            let event = NewEvent::tombstone("Tutor", 1, "Erased").expect("event");
            let _receipt = log.append(&mut tx, &[event]).await.expect("append");
            tx.commit().await;
            tokio::time::sleep(2 * HOUR).await;
            assert_eq!(log.tail(None, 10).await.expect("tail").len(), 1, "nobody has passed it");
            assert_eq!(pruner.last().and_then(|last| last.held_back_by).as_ref(), Some(&consumer));

            let page = log.read(&[Track { cursor, lanes }], 10).await.expect("read").remove(0);
            cursor = page.next;
            let track = Track { cursor: cursor.clone(), lanes };
            log.checkpoint(&member.fence, &[track]).await.expect("checkpoint");
            tokio::time::sleep(2 * HOUR).await;
            assert_eq!(log.tail(None, 10).await.expect("tail"), []);
        }
        stop.send(()).expect("it runs");
        running.await.expect("it ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_without_an_answer_is_given_up_and_tried_again() {
        let begun = Instant::now();
        let given_up = limited(std::future::pending()).await;
        assert_eq!(begun.elapsed(), ROUND);
        let kind = given_up.as_ref().map_err(LogError::kind);
        assert_eq!(kind, Err(LogErrorKind::Unavailable));
        let pruner = pruner(&MemoryLog::default());
        assert!(pruner.wait_after(given_up, ROUND, &mut 0) <= Duration::from_secs(1));
    }

    #[test]
    fn rests_between_rounds_and_waits_longer_after_each_error() {
        let pruner = pruner(&MemoryLog::default()).backoff(Backoff::new(Duration::from_secs(8), HOUR));
        let mut failures = 0;
        for (failure, kind) in [LogErrorKind::Unavailable, LogErrorKind::ReadOnly].into_iter().enumerate() {
            let wait = pruner.wait_after(Err(LogError::new(kind, "away")), Duration::ZERO, &mut failures);
            assert!(wait <= Duration::from_secs(8 << failure), "{wait:?}");
            assert_eq!(failures as usize, failure + 1);
        }
        assert_eq!(pruner.last(), None);
        let more = Pruned { more: true, ..Pruned::default() };
        let took = Duration::from_secs(3);
        assert_eq!(pruner.wait_after(Ok(more.clone()), took, &mut failures), took, "goes on soon");
        assert_eq!((failures, pruner.last()), (0, Some(more)));
        let rest = pruner.wait_after(Ok(Pruned::default()), took, &mut failures);
        assert!(rest >= HOUR.mul_f64(0.9) && rest < HOUR.mul_f64(1.1), "{rest:?}");
    }
}
