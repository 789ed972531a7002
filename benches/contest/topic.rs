//! A topic for each contestant of each round, gone afterwards: what is left would fill the disk.

use outbox_kafka::{KafkaPublisher, TopicSpec};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use test_services::{kafka_bootstrap, unique};

use super::Result;

const PARTITIONS: i32 = 12;

/// Makes a topic. `stamped` has the broker say when it appended each message.
pub(crate) async fn create(stamped: bool) -> Result<String> {
    let topic = unique("bench");
    let mut spec = TopicSpec::new(&topic, PARTITIONS, 1).with_setting("file.delete.delay.ms", "100");
    if stamped {
        spec = spec.with_setting("message.timestamp.type", "LogAppendTime");
    }
    let publisher = KafkaPublisher::builder(kafka_bootstrap().await).build()?;
    publisher.ensure_topics(&[spec]).await?;
    Ok(topic)
}

pub(crate) async fn delete(topic: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka_bootstrap().await).create()?;
    for deleted in admin.delete_topics(&[topic], &AdminOptions::new()).await? {
        deleted.map_err(|(topic, code)| format!("topic {topic} was not deleted: {code}"))?;
    }
    Ok(())
}
