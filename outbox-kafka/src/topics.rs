//! Creating topics.

use std::time::{Duration, Instant};

use outbox_core::publisher::{PublishError, PublishErrorKind};
use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::KafkaError,
    types::RDKafkaErrorCode as Code,
};

use crate::{client_log::ClientLog, settings::explain};

/// How long the cluster is given for all of it.
const PATIENCE: Duration = Duration::from_mins(1);

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    name: String,
    partitions: i32,
    replication: i32,
    settings: Vec<(String, String)>,
}

impl TopicSpec {
    /// A topic with so many partitions, each kept by so many brokers. `-1` for either: the broker's default.
    #[must_use]
    pub fn new(name: impl Into<String>, partitions: i32, replication: i32) -> Self {
        Self { name: name.into(), partitions, replication, settings: Vec::new() }
    }

    /// Sets a setting of the topic, such as `max.message.bytes`, where it is created.
    #[must_use]
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    fn new_topic(&self) -> NewTopic<'_> {
        let topic = NewTopic::new(&self.name, self.partitions, TopicReplication::Fixed(self.replication));
        self.settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
    }
}

/// Creates what is missing and waits until every partition has a leader.
pub(crate) async fn ensure(config: &ClientConfig, topics: &[TopicSpec]) -> Result<(), PublishError> {
    if topics.is_empty() {
        return Ok(());
    }
    let topics = topics.to_vec();
    let config = config.clone();
    // Creating the client, its metadata and its end block.
    let work = tokio::task::spawn_blocking(move || {
        let admin = AdminClient::from_config_and_context(&config, AdminLog::default())
            .map_err(|error| PublishError::new(PublishErrorKind::Configuration, explain(&error)))?;
        create(&admin, &topics)?;
        topics.iter().try_for_each(|topic| wait_until_ready(&admin, topic))
    });
    work.await.unwrap_or_else(|error| Err(environment("creating topics was interrupted").with_source(error)))
}

fn create(admin: &AdminClient<AdminLog>, topics: &[TopicSpec]) -> Result<(), PublishError> {
    let wanted: Vec<NewTopic<'_>> = topics.iter().map(TopicSpec::new_topic).collect();
    let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
    let results =
        tokio::runtime::Handle::current().block_on(admin.create_topics(&wanted, &options)).map_err(|error| {
            environment("the cluster did not create the topics; check that it can be reached").with_source(error)
        })?;
    for result in results {
        match result {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                let message = format!("the cluster refused to create topic {topic:?}");
                let refused = PublishError::new(PublishErrorKind::Configuration, message);
                return Err(refused.with_source(KafkaError::Global(code)));
            }
        }
    }
    Ok(())
}

/// A topic just created can have no partitions, or partitions without a leader, for a moment. Nothing signals the end
/// of it, so the cluster is asked again.
fn wait_until_ready(admin: &AdminClient<AdminLog>, spec: &TopicSpec) -> Result<(), PublishError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let metadata = admin.inner().fetch_metadata(Some(&spec.name), left.max(Duration::from_millis(1)));
        let metadata = metadata.map_err(|error| {
            environment(format!("the cluster did not describe topic {:?}", spec.name)).with_source(error)
        })?;
        if let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == spec.name) {
            let partitions = topic.partitions();
            if !partitions.is_empty() && partitions.iter().all(|p| p.leader() >= 0 && p.error().is_none()) {
                if spec.partitions > 0 && partitions.len() as i32 != spec.partitions {
                    tracing::warn!(
                        topic = spec.name,
                        wanted = spec.partitions,
                        found = partitions.len(),
                        "topic exists with another number of partitions and is left so: changing it would move keys"
                    );
                }
                return Ok(());
            }
        }
        if Instant::now() >= deadline {
            return Err(environment(format!("topic {:?} has no leader for every partition yet", spec.name)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn environment(message: impl Into<std::borrow::Cow<'static, str>>) -> PublishError {
    PublishError::new(PublishErrorKind::Environment, message)
}

#[derive(Default)]
struct AdminLog(ClientLog);

impl ClientContext for AdminLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.warn(&error.to_string(), reason);
    }
}
