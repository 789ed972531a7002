//! A rebuild's claim to its read model, kept while it works.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use outbox_core::error::chain;
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use super::{Generations, RebuildError, RebuildErrorKind};

/// How long others wait for a rebuild that died.
pub(crate) const CLAIM: Duration = Duration::from_secs(15);

/// How long the store may take to grant or end a claim.
const ANSWER: Duration = Duration::from_secs(5);

/// From one renewal to the next.
const RENEW: Duration = Duration::from_secs(3);

/// From a renewal that failed to the next try.
const RETRY: Duration = Duration::from_secs(1);

/// A rebuild that was not renewed for so long stops. The rest of the claim is for giving its partitions back.
const GIVE_UP: Duration = Duration::from_secs(10);

/// So long after the last renewal its source is dropped, whatever it still does: whoever claims next finds every
/// partition free.
const GONE: Duration = Duration::from_secs(14);

/// A claim that was granted.
pub(super) struct Claim {
    generations: Arc<dyn Generations>,
    rebuild: Uuid,
    /// When the store was asked for what it granted last. Its lease began later, so it ends later than this one counts.
    since: Instant,
    again: Instant,
    failure: Option<RebuildError>,
}

impl Claim {
    /// Claims for a new rebuild, in at most [`ANSWER`].
    pub(super) async fn take(generations: &Arc<dyn Generations>) -> Result<Self, RebuildError> {
        let (rebuild, since) = (Uuid::now_v7(), Instant::now());
        answered(generations.claim(rebuild, CLAIM)).await?;
        Ok(Self { generations: generations.clone(), rebuild, since, again: since + RENEW, failure: None })
    }

    pub(super) fn rebuild(&self) -> Uuid {
        self.rebuild
    }

    /// Renews the claim while it is polled, and resolves only when it is lost: as [`RebuildErrorKind::Busy`] to another,
    /// as [`RebuildErrorKind::Lapsed`] because no renewal came in time. May be dropped and called again.
    pub(super) async fn keep(&mut self) -> RebuildError {
        loop {
            let give_up = self.since + GIVE_UP;
            let answer = tokio::select! {
                biased;
                () = sleep_until(give_up) => return self.lapsed(),
                answer = self.when_due() => answer,
            };
            match self.hear(answer) {
                // A process that was frozen hears late of what it was granted; meanwhile another may have had the claim.
                Ok(()) if Instant::now() >= give_up => return self.lapsed(),
                Ok(()) => {}
                Err(busy) => return busy,
            }
        }
    }

    /// Renews the claim while something is done that reads no partition, and that changes nothing without a look at the
    /// claim in one step with the change. There is nothing to give back in time then, so it goes on when renewals are
    /// late, and ends only as [`RebuildErrorKind::Busy`]: a store with one writer renews nothing while it drops a large
    /// table, and would never get to the end of that. A renewal that comes late still tells whether another was here.
    pub(super) async fn keep_during<T>(
        &mut self,
        work: impl Future<Output = Result<T, RebuildError>>,
    ) -> Result<T, RebuildError> {
        let mut work = pin!(work);
        loop {
            let answer = tokio::select! {
                biased;
                done = &mut work => return done,
                answer = self.when_due() => answer,
            };
            self.hear(answer)?;
        }
    }

    /// Renews what was not renewed lately, so that there is time to build.
    pub(super) async fn freshen(&mut self) -> Result<(), RebuildError> {
        if self.since.elapsed() + ANSWER < GIVE_UP {
            return Ok(());
        }
        let answer = self.renewed().await;
        self.hear(answer)?;
        if self.since.elapsed() < GIVE_UP { Ok(()) } else { Err(self.lapsed()) }
    }

    /// When the store was asked for the next renewal, and what it answered. May be dropped.
    async fn when_due(&self) -> (Instant, Result<(), RebuildError>) {
        sleep_until(self.again).await;
        self.renewed().await
    }

    /// Never a second claim: that would be granted again after another had its own, and ended it.
    async fn renewed(&self) -> (Instant, Result<(), RebuildError>) {
        (Instant::now(), answered(self.generations.renew(self.rebuild, CLAIM)).await)
    }

    /// Only that another has it is an error here: what else fails is tried again.
    fn hear(&mut self, (asked, answer): (Instant, Result<(), RebuildError>)) -> Result<(), RebuildError> {
        match answer {
            Ok(()) => {
                (self.since, self.again) = (asked, asked + RENEW);
                self.failure = None;
            }
            Err(busy) if busy.kind() == RebuildErrorKind::Busy => return Err(busy),
            Err(error) => {
                tracing::warn!(error = chain(&error), "the claim to the read model was not renewed");
                self.again = Instant::now() + RETRY;
                self.failure = Some(error);
            }
        }
        Ok(())
    }

    /// Renews it while it is polled, and resolves shortly before others may have it.
    pub(super) async fn is_gone(&mut self) {
        let _why = self.keep().await;
        sleep_until(self.since + GONE).await;
    }

    /// Lets others have it, in at most [`ANSWER`].
    pub(super) async fn release(self) {
        if let Err(error) = answered(self.generations.release(self.rebuild)).await {
            tracing::warn!(error = chain(&error), "the next rebuild has to wait for the end of this one's claim");
        }
    }

    fn lapsed(&mut self) -> RebuildError {
        let message = "the claim to the read model was not renewed in time; run the rebuild again to go on";
        let error = RebuildError::new(RebuildErrorKind::Lapsed, message);
        match self.failure.take() {
            Some(failure) => error.with_source(failure),
            None => error,
        }
    }
}

async fn answered(asked: impl Future<Output = Result<(), RebuildError>>) -> Result<(), RebuildError> {
    timeout(ANSWER, asked).await.unwrap_or_else(|_elapsed| {
        let message = format!("the store of the read model did not answer within {ANSWER:?}");
        Err(RebuildError::new(RebuildErrorKind::Unavailable, message))
    })
}
