//! What a source says of what is still to come.

use std::time::Duration;

use super::{Reader, SourceHarness, events};
use crate::{
    source::{EventSource, Partition, SourceEvent, SourcePosition},
    testing::suite::{skip, within},
};

/// The lag of a partition grows as events are written that it does not deliver, and is 0 behind the last one. Left out by
/// a source that answers `None`.
pub async fn the_lag_says_how_much_is_to_come<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..3)).await;
    let mut reader = Reader::open(harness).await;
    assert_eq!(reader.numbers(3).await, [0, 1, 2]);
    let (partition, third) = reader.position();
    if reader.source.lag(&partition, Some(&third)).await.expect("lag").is_none() {
        skip("the_lag_says_how_much_is_to_come", "the source cannot tell");
        return;
    }
    lag_until(&mut reader, &partition, Some(&third), "nothing is left", |lag| lag == 0).await;
    lag_until(&mut reader, &partition, None, "three events from the start", |lag| lag > 0).await;

    reader.source.pause(&partition).await.expect("pause");
    harness.produce(events(3..4)).await;
    let one = lag_until(&mut reader, &partition, Some(&third), "an event waits", |lag| lag > 0).await;
    // Of a part of a log the lag is an estimate: these are more than there are parts.
    harness.produce(events(4..204)).await;
    lag_until(&mut reader, &partition, Some(&third), "it grows", |lag| lag > one).await;

    reader.source.resume(&partition).await.expect("resume");
    assert_eq!(reader.numbers(201).await, (3..204).collect::<Vec<_>>());
    let (_, last) = reader.position();
    lag_until(&mut reader, &partition, Some(&last), "nothing is left", |lag| lag == 0).await;
    assert!(lag(&mut reader, &partition, Some(&third)).await > 0, "what was delivered may not have had its effect");
}

async fn lag<S: EventSource>(reader: &mut Reader<S>, partition: &Partition, at: Option<&SourcePosition>) -> u64 {
    let lag = within("a lag", reader.source.lag(partition, at)).await;
    lag.expect("lag").expect("it could tell before")
}

/// Asks again and again, while the source does what it does: nothing tells when it has looked.
async fn lag_until<S: EventSource>(
    reader: &mut Reader<S>,
    partition: &Partition,
    at: Option<&SourcePosition>,
    what: &str,
    is_reached: impl Fn(u64) -> bool,
) -> u64 {
    within(&format!("the lag: {what}"), async {
        loop {
            let lag = lag(reader, partition, at).await;
            if is_reached(lag) {
                return lag;
            }
            if let Ok(event) = tokio::time::timeout(Duration::from_millis(20), reader.source.next()).await
                && let SourceEvent::Batch(batch) = event.expect("next")
            {
                assert!(batch.records.is_empty(), "{what}, but {batch:?} came");
            }
        }
    })
    .await
}
