//! What librdkafka says, as `tracing` events, and not more than somebody can read.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::config::RDKafkaLogLevel;

/// How long the same warning is kept back after it was given.
const QUIET: Duration = Duration::from_secs(10);

/// Gives each kind of warning at most once in ten seconds: while a broker is away, librdkafka repeats itself.
#[derive(Debug, Default)]
pub(crate) struct ClientLog(Mutex<HashMap<String, Instant>>);

impl ClientLog {
    /// A line of librdkafka's own log.
    pub(crate) fn line(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(target: "librdkafka", facility, "{message}");
            }
            _ => self.warn(facility, message),
        }
    }

    /// A warning; `kind` tells which ones are the same.
    pub(crate) fn warn(&self, kind: &str, message: &str) {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if given.get(kind).is_some_and(|last| now.duration_since(*last) < QUIET) {
            tracing::debug!(target: "librdkafka", kind, "{message}");
            return;
        }
        given.insert(kind.to_owned(), now);
        tracing::warn!(target: "librdkafka", kind, "{message}");
    }
}
