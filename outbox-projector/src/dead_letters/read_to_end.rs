//! Everything that a topic holds.

use std::collections::HashMap;

use outbox_core::source::{
    EventSource, Partition, SourceError, SourceErrorKind, SourceEvent, SourcePosition, SourceRecord,
};

/// Hands every record of a source out, from the oldest that is there to the end, each partition in order; then it
/// returns. Nothing is committed. For a topic of dead letters, which is read whole to be replayed.
///
/// The source has to be a fresh one, in a group of its own, and its topics have to be there: partitions that another
/// member owns, or that come after those before are at their end, would be left out. What
/// is written meanwhile is handed out too, so a topic that is written faster than it is read has no end. Nor has a
/// partition that ends with a record that nobody is given, as behind an aborted transaction. Records come again when
/// their partition was taken away and given back.
///
/// # Errors
/// Those of the source, and [`SourceErrorKind::Configuration`] when it cannot tell its [lag](EventSource::lag). Whatever
/// was handed out until then is not all: begin again, with a new source.
///
/// # Cancellation
/// May be dropped, such as by a timeout, which also ends the wait for a topic that does not exist. Then as after an error.
///
/// ```
/// use outbox_core::{memory::MemoryBroker, profile::SeedEnvelope};
/// use outbox_projector::dead_letters::{TopicLetter, read_to_end};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = MemoryBroker::default();
/// // With Kafka: `KafkaSource::builder(brokers, group, ["tutor-events.letters"]).build()?`, the group a new one.
/// let mut source = broker.source("replay-7f3a", ["tutor-events.letters"], SeedEnvelope);
/// let mut letters = Vec::new();
/// read_to_end(&mut source, |record| match TopicLetter::try_from(record) {
///     Ok(letter) if letter.projection == "tutor-count" => letters.push(letter),
///     Ok(_another_projections) => {}
///     Err(error) => eprintln!("{error}"),
/// })
/// .await?;
/// # Ok(()) }
/// ```
pub async fn read_to_end<S: EventSource + ?Sized>(
    source: &mut S,
    mut take: impl FnMut(SourceRecord) + Send,
) -> Result<(), SourceError> {
    let mut at_end = HashMap::new();
    while at_end.is_empty() || !at_end.values().all(|at_end| *at_end) {
        match source.next().await? {
            SourceEvent::Assigned(partitions) => {
                for partition in partitions {
                    if source.capabilities().rewinds {
                        source.rewind(&partition).await?;
                    } else {
                        source.start(&partition, None).await?;
                    }
                    let ends = is_at_end(source, &partition, None).await?;
                    at_end.insert(partition, ends);
                }
            }
            SourceEvent::Revoked(partitions) => at_end.retain(|partition, _| !partitions.contains(partition)),
            SourceEvent::Batch(batch) => {
                batch.records.into_iter().for_each(&mut take);
                let ends = is_at_end(source, &batch.partition, Some(&batch.position)).await?;
                at_end.insert(batch.partition, ends);
            }
            _ => {}
        }
    }
    Ok(())
}

async fn is_at_end<S: EventSource + ?Sized>(
    source: &mut S,
    partition: &Partition,
    position: Option<&SourcePosition>,
) -> Result<bool, SourceError> {
    let lag = source.lag(partition, position).await?.ok_or_else(|| {
        let message = format!("the source cannot tell where {partition} ends: read it with one that can");
        SourceError::new(SourceErrorKind::Configuration, message)
    })?;
    Ok(lag == 0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use outbox_core::{memory::MemoryBroker, profile::SeedEnvelope, publisher::Message, source::RawRecord};

    use super::*;

    fn write(broker: &MemoryBroker, topic: &str, n: u64) {
        let payload = Some(Bytes::from(n.to_string()));
        broker.write(Message { topic: topic.into(), key: Bytes::new(), payload, headers: Vec::new() });
    }

    async fn read(broker: &MemoryBroker, topics: &[&str]) -> Vec<u64> {
        let mut all = Vec::new();
        let mut source = broker.source("one", topics.iter().copied(), SeedEnvelope);
        let take = |record| match record {
            SourceRecord::Undecodable { raw: RawRecord { payload: Some(payload), .. }, .. } => {
                all.push(std::str::from_utf8(&payload).expect("text").parse().expect("a number"));
            }
            other => panic!("{other:?}"),
        };
        read_to_end(&mut source, take).await.expect("read");
        all
    }

    #[tokio::test]
    async fn every_partition_is_read_from_its_beginning_to_its_end() {
        let broker = MemoryBroker::default();
        assert_eq!(read(&broker, &["empty"]).await, [0; 0]);
        for n in 0..250 {
            write(&broker, "a", n);
        }
        write(&broker, "b", 1_000);
        // Whatever the group committed.
        let mut source = broker.source("one", ["a"], SeedEnvelope);
        source.next().await.expect("assigned");
        source.start(&Partition::new("memory/a"), None).await.expect("start");
        let SourceEvent::Batch(batch) = source.next().await.expect("next") else { panic!("no batch") };
        source.commit(&batch.partition, &batch.position).await.expect("commit");
        drop(source);
        for _ in 0..2 {
            let (of_b, of_a): (Vec<u64>, _) =
                read(&broker, &["a", "empty", "b"]).await.into_iter().partition(|n| *n >= 1_000);
            assert_eq!((of_a, of_b), ((0..250).collect(), vec![1_000]));
        }
    }
}
