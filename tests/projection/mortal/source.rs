use async_trait::async_trait;
use outbox_core::source::{EventSource, Partition, SourceCapabilities, SourceError, SourceEvent, SourcePosition};

use super::{Failpoint, Fuse};

/// A source whose process dies when it received something, or around a commit.
pub(crate) struct MortalSource {
    inner: Box<dyn EventSource>,
    fuse: Fuse,
}

impl MortalSource {
    pub(crate) fn new(inner: Box<dyn EventSource>, fuse: Fuse) -> Self {
        Self { inner, fuse }
    }
}

#[async_trait]
impl EventSource for MortalSource {
    fn capabilities(&self) -> SourceCapabilities {
        self.inner.capabilities()
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        let event = self.inner.next().await?;
        if let SourceEvent::Batch(batch) = &event
            && !batch.records.is_empty()
        {
            self.fuse.pass(Failpoint::AfterFetch);
        }
        Ok(event)
    }

    async fn start(&mut self, partition: &Partition, after: Option<&SourcePosition>) -> Result<(), SourceError> {
        self.inner.start(partition, after).await
    }

    async fn rewind(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.inner.rewind(partition).await
    }

    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError> {
        self.fuse.pass(Failpoint::BeforeOffsetCommit);
        self.inner.commit(partition, position).await?;
        self.fuse.pass(Failpoint::AfterOffsetCommit);
        Ok(())
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.inner.pause(partition).await
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.inner.resume(partition).await
    }

    async fn lag(
        &mut self,
        partition: &Partition,
        position: Option<&SourcePosition>,
    ) -> Result<Option<u64>, SourceError> {
        self.inner.lag(partition, position).await
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        self.inner.close().await
    }
}
