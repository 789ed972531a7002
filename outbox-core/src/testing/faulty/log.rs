use std::time::Duration;

use async_trait::async_trait;

use super::cues::{Cues, ON_CUE, When};
use crate::{
    event::NewEvent,
    log::{
        Assignment, Claim, ConsumerName, EventLog, Fence, LogCapabilities, LogError, LogErrorKind, LogIdentity,
        MemberId, Page, Park, Parked, ParkedEvent, Progress, Redriven, Renewal, Republished, StartAt, Track,
    },
    outbox::{AppendError, AppendErrorKind, Outbox, Receipt},
    wake::Wake,
};

/// A log that fails on cue, and otherwise does what the log inside does.
///
/// Cues are kept in the order given, per operation, and used up one failure a call. Clones share them.
#[derive(Debug, Clone)]
pub struct FaultyLog<L> {
    inner: L,
    reads: Cues<LogOperation, LogErrorKind>,
    appends: Cues<(), AppendErrorKind>,
}

/// What can be made to fail: the methods of [`EventLog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogOperation {
    /// [`EventLog::identity`].
    Identity,
    /// [`EventLog::register`].
    Register,
    /// [`EventLog::join`].
    Join,
    /// [`EventLog::renew`].
    Renew,
    /// [`EventLog::release`].
    Release,
    /// [`EventLog::leave`].
    Leave,
    /// [`EventLog::read`].
    Read,
    /// [`EventLog::checkpoint`].
    Checkpoint,
    /// [`EventLog::park`].
    Park,
    /// [`EventLog::blocked_keys`].
    BlockedKeys,
    /// [`EventLog::due_parked`].
    DueParked,
    /// [`EventLog::redriven`].
    Redriven,
    /// [`EventLog::progress`].
    Progress,
}

impl<L> FaultyLog<L> {
    /// Fails never, until told to.
    #[must_use]
    pub fn new(inner: L) -> Self {
        Self { inner, reads: Cues::default(), appends: Cues::default() }
    }

    /// The log inside, which never fails on cue.
    pub fn inner(&self) -> &L {
        &self.inner
    }

    /// The next `times` calls of `operation` fail with this kind and have no effect.
    pub fn fail_next(&self, operation: LogOperation, times: usize, kind: LogErrorKind) {
        self.reads.add(operation, times, kind, When::Before);
    }

    /// The next `times` calls of `operation` have their effect and fail with this kind all the same, as when an answer
    /// is lost on the way.
    pub fn fail_after(&self, operation: LogOperation, times: usize, kind: LogErrorKind) {
        self.reads.add(operation, times, kind, When::After);
    }

    /// The next `times` calls of `operation` have no effect and no answer ever comes, as from a server that froze.
    pub fn hang_next(&self, operation: LogOperation, times: usize) {
        self.reads.add(operation, times, LogErrorKind::Unavailable, When::Never);
    }

    /// The next `times` calls of `operation` have their effect, and the answer takes so long.
    pub fn slow_next(&self, operation: LogOperation, times: usize, by: Duration) {
        self.reads.add(operation, times, LogErrorKind::Unavailable, When::Late(by));
    }

    /// The next `times` appends fail with this kind and add nothing.
    pub fn fail_append(&self, times: usize, kind: AppendErrorKind) {
        self.appends.add((), times, kind, When::Before);
    }

    /// How many failures are still to come.
    #[must_use]
    pub fn failures_left(&self) -> usize {
        self.reads.left() + self.appends.left()
    }

    async fn run<T>(
        &self,
        operation: LogOperation,
        call: impl Future<Output = Result<T, LogError>>,
    ) -> Result<T, LogError> {
        self.reads.run(operation, call, |kind| LogError::new(kind, ON_CUE)).await
    }
}

#[async_trait]
impl<L: Outbox> Outbox for FaultyLog<L> {
    type Tx<'t> = L::Tx<'t>;

    async fn append(&self, tx: &mut Self::Tx<'_>, events: &[NewEvent]) -> Result<Receipt, AppendError> {
        let call = self.inner.append(tx, events);
        self.appends.run((), call, |kind| AppendError::new(kind, ON_CUE)).await
    }
}

#[async_trait]
impl<L: EventLog> EventLog for FaultyLog<L> {
    fn capabilities(&self) -> LogCapabilities {
        self.inner.capabilities()
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        self.run(LogOperation::Identity, self.inner.identity()).await
    }

    async fn register(&self, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
        self.run(LogOperation::Register, self.inner.register(consumer, start)).await
    }

    async fn join(
        &self,
        consumer: &ConsumerName,
        member: MemberId,
        claim: Claim,
        lease: Duration,
    ) -> Result<Assignment, LogError> {
        self.run(LogOperation::Join, self.inner.join(consumer, member, claim, lease)).await
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<Renewal, LogError> {
        self.run(LogOperation::Renew, self.inner.renew(fence, lease)).await
    }

    async fn release(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        self.run(LogOperation::Release, self.inner.release(fence, tracks)).await
    }

    async fn leave(&self, fence: &Fence) -> Result<(), LogError> {
        self.run(LogOperation::Leave, self.inner.leave(fence)).await
    }

    async fn read(&self, tracks: &[Track], limit: usize) -> Result<Vec<Page>, LogError> {
        self.run(LogOperation::Read, self.inner.read(tracks, limit)).await
    }

    async fn checkpoint(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        self.run(LogOperation::Checkpoint, self.inner.checkpoint(fence, tracks)).await
    }

    async fn park(&self, fence: &Fence, events: &[Park]) -> Result<Vec<Parked>, LogError> {
        self.run(LogOperation::Park, self.inner.park(fence, events)).await
    }

    async fn blocked_keys(&self, fence: &Fence) -> Result<Vec<String>, LogError> {
        self.run(LogOperation::BlockedKeys, self.inner.blocked_keys(fence)).await
    }

    async fn due_parked(&self, fence: &Fence, limit: usize) -> Result<Vec<ParkedEvent>, LogError> {
        self.run(LogOperation::DueParked, self.inner.due_parked(fence, limit)).await
    }

    async fn redriven(&self, fence: &Fence, events: &[Republished]) -> Result<Vec<Redriven>, LogError> {
        self.run(LogOperation::Redriven, self.inner.redriven(fence, events)).await
    }

    async fn progress(&self, consumer: &ConsumerName) -> Result<Progress, LogError> {
        self.run(LogOperation::Progress, self.inner.progress(consumer)).await
    }

    fn wake(&self) -> &Wake {
        self.inner.wake()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory::MemoryLog, testing::event::numbered};

    #[tokio::test]
    async fn fails_as_often_as_told_with_or_without_effect() {
        let log = FaultyLog::new(MemoryLog::default());
        let consumer = ConsumerName::parse("suite").expect("name");
        log.fail_next(LogOperation::Register, 1, LogErrorKind::Unavailable);
        log.fail_after(LogOperation::Register, 1, LogErrorKind::Database);

        let without = log.register(&consumer, StartAt::Beginning).await.expect_err("on cue");
        assert_eq!(without.kind(), LogErrorKind::Unavailable);
        let unknown = log.progress(&consumer).await.expect_err("not registered");
        assert_eq!(unknown.kind(), LogErrorKind::UnknownConsumer);

        let with = log.register(&consumer, StartAt::Beginning).await.expect_err("on cue");
        assert_eq!(with.kind(), LogErrorKind::Database);
        log.progress(&consumer).await.expect("registered");
        assert_eq!(log.failures_left(), 0);
    }

    #[tokio::test]
    async fn a_failed_append_adds_nothing() {
        let log = FaultyLog::new(MemoryLog::default());
        let mut tx = log.inner().begin();
        log.fail_append(1, AppendErrorKind::Database);
        let failed = log.append(&mut tx, &[numbered("key", 1)]).await.expect_err("on cue");
        assert_eq!(failed.kind(), AppendErrorKind::Database);
        assert_eq!(log.append(&mut tx, &[numbered("key", 2)]).await.expect("append").events(), 1);
        tx.commit().await;
        let consumer = ConsumerName::parse("suite").expect("name");
        log.register(&consumer, StartAt::Beginning).await.expect("register");
        assert_eq!(log.progress(&consumer).await.expect("progress").head, 1);
    }
}
