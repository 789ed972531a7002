//! What the cluster tells of topics.

use std::{collections::HashMap, sync::Arc, time::Duration};

use outbox_core::{error::chain, publisher::PublishErrorKind};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier},
    error::{KafkaError, KafkaResult},
    types::RDKafkaErrorCode as Code,
};
use tokio::runtime::Runtime;

use super::{AdminLog, TopicPolicy, TopicSpec, admin, create};
use crate::publisher::{Found, advice};

/// How long the cluster is given to say whether a topic exists.
const ANSWER: Duration = Duration::from_secs(5);

/// How long it is given to tell the limits, which one can do without.
const LIMITS: Duration = Duration::from_secs(2);

/// Asks about topics, one question after the other.
pub(crate) struct Lookup {
    runtime: Runtime,
    admin: AdminClient<AdminLog>,
    policy: TopicPolicy,
}

impl Lookup {
    /// Connects to nothing yet.
    ///
    /// Errors: librdkafka does not accept the settings.
    pub(crate) fn new(runtime: Runtime, config: &ClientConfig, policy: TopicPolicy) -> KafkaResult<Self> {
        Ok(Self { runtime, admin: admin(config)?, policy })
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Looks topics up, and creates what is missing if that is the policy. Blocks.
    ///
    /// Errors: the cluster does not answer.
    pub(crate) fn topics(&self, topics: &[Arc<str>]) -> KafkaResult<Vec<(Arc<str>, Found)>> {
        let mut found = Vec::new();
        for topic in topics {
            let state = match existence(&self.admin, topic)? {
                None => create_missing(&self.runtime, &self.admin, &self.policy, topic),
                Some(state) => state,
            };
            found.push((topic.clone(), state));
        }
        let limits = limits(&self.runtime, &self.admin, topics);
        for (topic, state) in &mut found {
            if let Found::Usable { limit } = state {
                *limit = limits.get(&**topic).copied();
            }
        }
        Ok(found)
    }
}

/// `None`: there is no such topic.
fn existence(admin: &AdminClient<AdminLog>, topic: &str) -> KafkaResult<Option<Found>> {
    let metadata = admin.inner().fetch_metadata(Some(topic), ANSWER)?;
    let described = metadata.topics().iter().find(|described| described.name() == topic);
    let code = described.map(|described| described.error().map(Code::from));
    Ok(match code {
        None | Some(Some(Code::UnknownTopicOrPartition | Code::UnknownTopic)) => None,
        Some(Some(code @ Code::TopicAuthorizationFailed)) => Some(unusable(code, topic, PublishErrorKind::Environment)),
        Some(Some(code @ Code::InvalidTopic)) => Some(unusable(code, topic, PublishErrorKind::Event)),
        // What else is the matter passes, and the producer waits for it.
        Some(_) => Some(Found::Usable { limit: None }),
    })
}

fn unusable(code: Code, topic: &str, kind: PublishErrorKind) -> Found {
    Found::Unusable { kind, why: advice(code, topic) }
}

fn create_missing(runtime: &Runtime, admin: &AdminClient<AdminLog>, policy: &TopicPolicy, topic: &str) -> Found {
    match policy {
        TopicPolicy::Existing => unusable(Code::UnknownTopic, topic, PublishErrorKind::Environment),
        // The question had it created; if not, the producer goes on asking.
        TopicPolicy::Broker => Found::Usable { limit: None },
        TopicPolicy::Create { partitions, replication } => {
            let spec = TopicSpec::new(topic, *partitions, *replication);
            match create::create(runtime.handle(), admin, &[spec]) {
                Ok(()) => {
                    tracing::info!(topic, partitions, replication, "topic created");
                    Found::Usable { limit: None }
                }
                Err(error) => Found::Unusable { kind: PublishErrorKind::Environment, why: chain(&error) },
            }
        }
    }
}

/// The `max.message.bytes` of those topics that tell it. Reading it takes a permission that writing does not.
fn limits(runtime: &Runtime, admin: &AdminClient<AdminLog>, topics: &[Arc<str>]) -> HashMap<String, usize> {
    let resources: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let options = AdminOptions::new().request_timeout(Some(LIMITS));
    let described = runtime.block_on(admin.describe_configs(&resources, &options));
    let unreadable = |error: &KafkaError| {
        tracing::debug!(%error, "max.message.bytes cannot be read: a batch or message may be refused that could have been made smaller");
    };
    let mut limits = HashMap::new();
    match described {
        Err(error) => unreadable(&error),
        Ok(described) => {
            for resource in described {
                match resource {
                    Err(code) => unreadable(&KafkaError::Global(code)),
                    Ok(resource) => {
                        let limit =
                            resource.get("max.message.bytes").and_then(|entry| entry.value.as_deref()?.parse().ok());
                        if let (OwnedResourceSpecifier::Topic(topic), Some(limit)) = (resource.specifier, limit) {
                            limits.insert(topic, limit);
                        }
                    }
                }
            }
        }
    }
    limits
}
