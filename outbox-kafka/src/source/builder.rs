use std::{fmt, sync::Arc, time::Duration};

use outbox_core::{
    profile::{Decoder, SeedEnvelope},
    source::{SourceError, SourceErrorKind},
};

use super::{KafkaSource, group::Terms, inbox::Limits, member};
use crate::settings::{CONSUMER_GUARDS, Settings};

/// Configures a [`KafkaSource`].
///
/// Defaults that may be changed with [`KafkaSourceBuilder::setting`]: `auto.offset.reset=earliest`,
/// `partition.assignment.strategy=cooperative-sticky`, `session.timeout.ms=45000`, `fetch.wait.max.ms=100`,
/// `reconnect.backoff.max.ms=500`, `topic.metadata.refresh.interval.ms=30000`; everything else as in librdkafka.
///
/// `auto.offset.reset` counts only where nothing was ever committed; a position that fits no more is told, never reset.
/// With `group.instance.id` the member is static: a restart within `session.timeout.ms` moves no partition.
#[derive(Clone)]
pub struct KafkaSourceBuilder {
    settings: Settings,
    topics: Vec<String>,
    decoder: Arc<dyn Decoder>,
    limits: Limits,
}

/// Where to begin when nothing was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    Oldest,
    Newest,
    Refuse,
}

impl KafkaSourceBuilder {
    pub(super) fn new(servers: &str, group: &str, topics: Vec<String>) -> Self {
        let settings = Settings::new(
            CONSUMER_GUARDS,
            &[
                ("bootstrap.servers", servers),
                ("group.id", group),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("auto.offset.reset", "earliest"),
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("session.timeout.ms", "45000"),
                ("fetch.wait.max.ms", "100"),
                ("reconnect.backoff.max.ms", "500"),
                ("topic.metadata.refresh.interval.ms", "30000"),
            ],
        );
        let limits = Limits { records: 500, bytes: 4 * 1024 * 1024, wait: Duration::ZERO };
        Self { settings, topics, decoder: Arc::new(SeedEnvelope), limits }
    }

    /// Decodes records with this decoder. Default: [`SeedEnvelope`].
    #[must_use]
    pub fn decoder(mut self, decoder: impl Decoder + 'static) -> Self {
        self.decoder = Arc::new(decoder);
        self
    }

    /// The most records in one batch, at least 1. Default: 500.
    #[must_use]
    pub fn batch(mut self, records: usize) -> Self {
        self.limits.records = records.max(1);
        self
    }

    /// The most bytes of keys and bodies in one batch; a record that is larger comes alone. Default: 4 MiB.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// How long a record waits for others to fill its batch. Default: not at all; while a handler is at work, what comes
    /// meanwhile gathers by itself.
    #[must_use]
    pub fn batch_wait(mut self, longest: Duration) -> Self {
        self.limits.wait = longest;
        self
    }

    /// Sets any setting of librdkafka. [`KafkaSourceBuilder::build`] refuses `enable.auto.commit` and
    /// `enable.auto.offset.store` other than false, which would commit events before they took effect.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.set(name, value);
        self
    }

    /// Accepts a value of this setting that can lose events.
    #[must_use]
    pub fn allow_dangerous(mut self, name: impl Into<String>) -> Self {
        self.settings.allow(name);
        self
    }

    /// Checks the settings. Connects to nothing.
    ///
    /// # Errors
    /// [`SourceErrorKind::Configuration`] naming a setting that is unknown, has no such value, or is dangerous, or when
    /// there is no topic.
    pub fn build(self) -> Result<KafkaSource, SourceError> {
        let configuration = |why| SourceError::new(SourceErrorKind::Configuration, why);
        if self.topics.is_empty() {
            return Err(configuration("a source needs a topic to read".to_owned()));
        }
        let mut config = self.settings.client_config().map_err(configuration)?;
        let reset = match self.settings.value("auto.offset.reset") {
            Some("latest" | "largest" | "end") => Reset::Newest,
            Some("error" | "none") => Reset::Refuse,
            _ => Reset::Oldest,
        };
        // A start resets where there is something to reset; librdkafka would do it also to a position that is lost.
        config.set("auto.offset.reset", "error");
        let verbose = self.settings.value("debug");
        member::hear_of_recreated_topics(&mut config, verbose);
        let terms = Terms { config, topics: self.topics, limits: self.limits, verbose: verbose.is_some() };
        Ok(KafkaSource { terms, decoder: self.decoder, reset, joining: None, membership: None })
    }
}

impl fmt::Debug for KafkaSourceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSourceBuilder")
            .field("settings", &self.settings)
            .field("topics", &self.topics)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
