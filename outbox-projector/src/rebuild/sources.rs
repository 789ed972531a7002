use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{
    log::{ConsumerName, LogAdmin, LogError, LogErrorKind},
    log_source::LogSource,
    source::{EventSource, SourceError, SourceErrorKind},
};

use super::{Generation, Stage};

/// Where the generations of a read model get their events.
///
/// A generation reads under a name of its own, from the first event there is. No number is used twice, so a consumer group
/// with the number in its name has no offsets yet when its generation begins; do not use groups of such names elsewhere,
/// nor after the read model was removed with all that it keeps of its generations. The source has to
/// [tell its lag](EventSource::lag), or a rebuild never ends. Implemented by closures:
/// `|generation, stage| KafkaSource::builder(servers, generation.name("tutor-search"), ["tutor-events"]).build()`, boxed.
#[async_trait]
pub trait Sources: Send + Sync {
    /// A source that begins at the first event, or where this generation was.
    ///
    /// # Errors
    /// [`SourceError`] when it cannot be set up as configured.
    fn open(&self, generation: Generation, stage: Stage) -> Result<Box<dyn EventSource>, SourceError>;

    /// Nothing reads for this generation any more, now or later. Does nothing by default: a consumer group is forgotten by
    /// its broker.
    ///
    /// # Errors
    /// [`SourceError`] when that could not be recorded; the rebuild ends, and asks again when it is run again.
    async fn forget(&self, _generation: Generation) -> Result<(), SourceError> {
        Ok(())
    }
}

#[async_trait]
impl<F> Sources for F
where
    F: Fn(Generation, Stage) -> Result<Box<dyn EventSource>, SourceError> + Send + Sync,
{
    fn open(&self, generation: Generation, stage: Stage) -> Result<Box<dyn EventSource>, SourceError> {
        self(generation, stage)
    }
}

/// Generations that read straight from a log, each as a consumer `{name}`, `{name}.g2` and so on.
///
/// Retention must not have removed events before the beginning of a rebuild: keep the log, or rebuild from elsewhere.
pub struct LogSources {
    log: Arc<dyn LogAdmin>,
    consumer: ConsumerName,
    batch: usize,
}

impl LogSources {
    /// Reads this log; `consumer` is the name of the first generation's consumer.
    #[must_use]
    pub fn new(log: Arc<dyn LogAdmin>, consumer: ConsumerName) -> Self {
        Self { log, consumer, batch: 1_000 }
    }

    /// The most events in one batch of the source; 1,000 by default.
    #[must_use]
    pub fn batch(mut self, events: usize) -> Self {
        self.batch = events;
        self
    }

    fn consumer(&self, generation: Generation) -> Result<ConsumerName, LogError> {
        ConsumerName::parse(generation.name(self.consumer.as_str()))
    }
}

#[async_trait]
impl Sources for LogSources {
    fn open(&self, generation: Generation, _stage: Stage) -> Result<Box<dyn EventSource>, SourceError> {
        let consumer = self.consumer(generation).map_err(source_error)?;
        let log = self.log.clone();
        Ok(Box::new(LogSource::builder(log).consumer(consumer).batch(self.batch).build()))
    }

    async fn forget(&self, generation: Generation) -> Result<(), SourceError> {
        let consumer = self.consumer(generation).map_err(source_error)?;
        match self.log.drop_consumer(&consumer).await {
            Err(error) if error.kind() != LogErrorKind::UnknownConsumer => Err(source_error(error)),
            _ => Ok(()),
        }
    }
}

fn source_error(error: LogError) -> SourceError {
    let kind = if error.kind().passes() { SourceErrorKind::Unavailable } else { SourceErrorKind::Configuration };
    SourceError::new(kind, "the log refused the generation's consumer").with_source(error)
}
