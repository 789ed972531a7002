use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use outbox_core::{
    log::{
        Assignment, Claim, ConsumerName, EventLog, Fence, LogCapabilities, LogError, LogIdentity, MemberId, Page, Park,
        Parked, ParkedEvent, Progress, Redriven, Renewal, Republished, StartAt, Track,
    },
    wake::Wake,
};

use super::{Failpoint, Fuse};

/// A log whose process dies before or after a call of it.
pub(crate) struct MortalLog {
    inner: Arc<dyn EventLog>,
    fuse: Fuse,
}

impl MortalLog {
    pub(crate) fn new(inner: Arc<dyn EventLog>, fuse: Fuse) -> Self {
        Self { inner, fuse }
    }

    async fn between<T>(
        &self,
        before: Failpoint,
        call: impl Future<Output = Result<T, LogError>>,
        after: Failpoint,
    ) -> Result<T, LogError> {
        self.fuse.pass(before);
        let answer = call.await?;
        self.fuse.pass(after);
        Ok(answer)
    }
}

#[async_trait]
impl EventLog for MortalLog {
    fn capabilities(&self) -> LogCapabilities {
        self.inner.capabilities()
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        self.inner.identity().await
    }

    async fn register(&self, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
        self.inner.register(consumer, start).await
    }

    async fn join(
        &self,
        consumer: &ConsumerName,
        member: MemberId,
        claim: Claim,
        lease: Duration,
    ) -> Result<Assignment, LogError> {
        let assignment = self.inner.join(consumer, member, claim, lease).await?;
        if !assignment.tracks.is_empty() {
            self.fuse.pass(Failpoint::AfterJoin);
        }
        Ok(assignment)
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<Renewal, LogError> {
        let renewal = self.inner.renew(fence, lease).await?;
        if !renewal.gained.is_empty() {
            self.fuse.pass(Failpoint::AfterGaining);
        }
        Ok(renewal)
    }

    async fn release(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        self.between(Failpoint::BeforeRelease, self.inner.release(fence, tracks), Failpoint::AfterRelease).await
    }

    async fn leave(&self, fence: &Fence) -> Result<(), LogError> {
        self.between(Failpoint::BeforeLeave, self.inner.leave(fence), Failpoint::AfterLeave).await
    }

    async fn read(&self, tracks: &[Track], limit: usize) -> Result<Vec<Page>, LogError> {
        let pages = self.inner.read(tracks, limit).await?;
        if pages.iter().any(|page| !page.events.is_empty()) {
            self.fuse.pass(Failpoint::AfterRead);
        }
        Ok(pages)
    }

    async fn checkpoint(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        let call = self.inner.checkpoint(fence, tracks);
        self.between(Failpoint::BeforeCheckpoint, call, Failpoint::AfterCheckpoint).await?;
        self.fuse.recorded();
        Ok(())
    }

    async fn park(&self, fence: &Fence, events: &[Park]) -> Result<Vec<Parked>, LogError> {
        let call = self.inner.park(fence, events);
        if events.iter().any(|park| park.failure.is_some()) {
            self.between(Failpoint::BeforePark, call, Failpoint::AfterPark).await
        } else {
            self.between(Failpoint::BeforeParkBehind, call, Failpoint::AfterParkBehind).await
        }
    }

    async fn blocked_keys(&self, fence: &Fence) -> Result<Vec<String>, LogError> {
        self.inner.blocked_keys(fence).await
    }

    async fn due_parked(&self, fence: &Fence, limit: usize) -> Result<Vec<ParkedEvent>, LogError> {
        self.inner.due_parked(fence, limit).await
    }

    async fn redriven(&self, fence: &Fence, events: &[Republished]) -> Result<Vec<Redriven>, LogError> {
        self.between(Failpoint::BeforeRedriven, self.inner.redriven(fence, events), Failpoint::AfterRedriven).await
    }

    async fn progress(&self, consumer: &ConsumerName) -> Result<Progress, LogError> {
        self.inner.progress(consumer).await
    }

    fn wake(&self) -> &Wake {
        self.inner.wake()
    }
}
