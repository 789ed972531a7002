//! What the broker says of when it appended each message. Read afterwards: nothing is disturbed by it.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    metadata::MetadataTopic,
};
use test_services::kafka_bootstrap;

use crate::{
    Result,
    stamps::{Stage, Stamps, number_in},
};

/// How long one message after the other is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stamps every message of a topic whose messages the broker stamps.
pub(crate) async fn stamp(topic: &str, stamps: &Stamps) -> Result<()> {
    let servers = kafka_bootstrap().await;
    // What it takes stays on this thread: the runtime has others, and nothing else goes on.
    tokio::task::block_in_place(|| read(&servers, topic, stamps))
}

fn read(servers: &str, topic: &str, stamps: &Stamps) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "nobody")
        .set("enable.auto.commit", "false")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let mut partitions = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
        partitions.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&partitions)?;
    let (mut left, mut last) = (stamps.events(), Instant::now());
    while left > 0 {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            if last.elapsed() > PATIENCE {
                return Err(format!("{left} of {} events are not in the topic", stamps.events()).into());
            }
            continue;
        };
        let message = message?;
        last = Instant::now();
        let number = message.payload().and_then(number_in).ok_or("a message of somebody else")?;
        let at = message.timestamp().to_millis().ok_or("a message without a time")?;
        if stamps.at(number, Stage::Appended).is_none() {
            left -= 1;
        }
        stamps.appended(number, at);
    }
    Ok(())
}
