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
struct SourceOf<B> {
    bed: B,
    is_shared: bool,
}

fn alone<B>(bed: B) -> SourceOf<B> {
    SourceOf { bed, is_shared: false }
}

fn shared<B>(bed: B) -> SourceOf<B> {
    SourceOf { bed, is_shared: true }
}

#[async_trait]
impl<B> SourceHarness for SourceOf<B>
where
    B: LogHarness,
    B::Log: Outbox + EventLog + Clone + 'static,
{
    type Source = LogSource;

    async fn open(&self) -> LogSource {
        let consumer = ConsumerName::parse("suite").expect("name");
        let builder = LogSource::builder(Arc::new(self.bed.log().clone())).consumer(consumer);
        if self.is_shared { builder.shared() } else { builder }.build()
    }

    async fn produce(&self, events: Vec<NewEvent>) {
        let mut tx = self.bed.begin().await;
        let receipt = self.bed.log().append(&mut tx, &events).await.expect("append");
        self.bed.commit(tx).await;
        receipt.committed();
    }

    async fn produce_foreign(&self, _payload: Bytes) {
        unreachable!("a log holds events only, and its source says so");
    }

    async fn tear_down(self) {
        self.bed.tear_down().await;
    }
}

outbox_core::source_suite!(postgres, async || alone(Bed::create(PostgresVersion::V15).await));
outbox_core::source_suite!(postgres_shared, async || shared(Bed::create(PostgresVersion::V18).await));
outbox_core::source_suite!(sqlite, async || alone(SqliteBed::create().await));
outbox_core::source_suite!(sqlite_shared, async || shared(SqliteBed::create().await));
