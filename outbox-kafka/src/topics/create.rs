//! Creating topics.

use std::time::{Duration, Instant};

use outbox_core::publisher::{PublishError, PublishErrorKind};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic},
    error::KafkaError,
    types::RDKafkaErrorCode as Code,
};
use tokio::runtime::Handle;

use super::{AdminLog, TopicSpec, admin, environment};
use crate::settings::explain;

/// How long the cluster is given for all of it.
const PATIENCE: Duration = Duration::from_mins(1);

/// Creates what is missing and waits until every partition has a leader.
pub(crate) async fn ensure(config: &ClientConfig, topics: &[TopicSpec]) -> Result<(), PublishError> {
    if topics.is_empty() {
        return Ok(());
    }
    let topics = topics.to_vec();
    let config = config.clone();
    let runtime = Handle::current();
    // Creating the client, its metadata and its end block.
    let work = tokio::task::spawn_blocking(move || {
        let admin =
            admin(&config).map_err(|error| PublishError::new(PublishErrorKind::Configuration, explain(&error)))?;
        create(&runtime, &admin, &topics)
    });
    work.await.unwrap_or_else(|error| Err(environment("creating topics was interrupted").with_source(error)))
}

/// The same, blocking. `runtime` is not the one that this thread works for.
pub(super) fn create(
    runtime: &Handle,
    admin: &AdminClient<AdminLog>,
    topics: &[TopicSpec],
) -> Result<(), PublishError> {
    let wanted: Vec<NewTopic<'_>> = topics.iter().map(TopicSpec::new_topic).collect();
    let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
    let results = runtime.block_on(admin.create_topics(&wanted, &options)).map_err(|error| {
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
    topics.iter().try_for_each(|topic| wait_until_ready(admin, topic))
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
