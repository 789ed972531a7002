//! The suite that every event source has to pass, straight from the logs.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::{
    event::NewEvent,
    log::{ConsumerName, EventLog},
    log_source::LogSource,
    outbox::Outbox,
    testing::{outbox_and_log::LogHarness, source::SourceHarness},
};
use test_services::PostgresVersion;

use crate::{sqlite::SqliteBed, support::Bed};

/// A source over the log of a bed.
struct SourceOf<B>(B);

#[async_trait]
impl<B> SourceHarness for SourceOf<B>
where
    B: LogHarness,
    B::Log: Outbox + EventLog + Clone + 'static,
{
    type Source = LogSource;

    async fn open(&self) -> LogSource {
        let consumer = ConsumerName::parse("suite").expect("name");
        LogSource::builder(Arc::new(self.0.log().clone())).consumer(consumer).build()
    }

    async fn produce(&self, events: Vec<NewEvent>) {
        let mut tx = self.0.begin().await;
        let receipt = self.0.log().append(&mut tx, &events).await.expect("append");
        self.0.commit(tx).await;
        receipt.committed();
    }

    async fn produce_foreign(&self, _payload: Bytes) {
        unreachable!("a log holds events only, and its source says so");
    }

    async fn tear_down(self) {
        self.0.tear_down().await;
    }
}

outbox_core::source_suite!(postgres, async || SourceOf(Bed::create(PostgresVersion::V15).await));
outbox_core::source_suite!(sqlite, async || SourceOf(SqliteBed::create().await));
