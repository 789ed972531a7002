//! The operators' side of the log.

use async_trait::async_trait;
use outbox_core::{
    event::{RecordedEvent, Sequence},
    log::{
        ConsumerInfo, ConsumerName, DiscardedEvent, EventStatus, LogAdmin, LogError, ParkedEvent, Pruned, Reanchored,
        Redrive, RetentionPolicy,
    },
};

use super::{PostgresLog, consumers, retention};

#[async_trait]
impl LogAdmin for PostgresLog {
    async fn consumers(&self) -> Result<Vec<ConsumerInfo>, LogError> {
        consumers::consumers(&self.inner).await
    }

    async fn set_paused(&self, consumer: &ConsumerName, paused: bool) -> Result<(), LogError> {
        consumers::set_paused(&self.inner, consumer, paused).await
    }

    async fn drop_consumer(&self, consumer: &ConsumerName) -> Result<(), LogError> {
        consumers::drop_consumer(&self.inner, consumer).await
    }

    async fn parked(
        &self,
        consumer: &ConsumerName,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<ParkedEvent>, LogError> {
        consumers::parked(&self.inner, consumer, after, limit).await
    }

    async fn redrive(&self, consumer: &ConsumerName, which: &Redrive) -> Result<u64, LogError> {
        consumers::redrive(&self.inner, consumer, which).await
    }

    async fn discard(&self, consumer: &ConsumerName, sequence: Sequence, reason: &str) -> Result<bool, LogError> {
        consumers::discard(&self.inner, consumer, sequence, reason).await
    }

    async fn discarded(
        &self,
        consumer: &ConsumerName,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<DiscardedEvent>, LogError> {
        consumers::discarded(&self.inner, consumer, after, limit).await
    }

    async fn event_status(&self, consumer: &ConsumerName, sequence: Sequence) -> Result<Option<EventStatus>, LogError> {
        consumers::event_status(&self.inner, consumer, sequence).await
    }

    async fn tail(&self, after: Option<Sequence>, limit: usize) -> Result<Vec<RecordedEvent>, LogError> {
        consumers::tail(&self.inner, after, limit).await
    }

    async fn prune(&self, policy: &RetentionPolicy) -> Result<Pruned, LogError> {
        retention::prune(&self.inner, policy).await
    }

    async fn reanchor(&self) -> Result<Reanchored, LogError> {
        consumers::reanchor(&self.inner).await
    }
}
