//! What is promised from one source of a consumer to the next.

use std::{collections::HashMap, time::Duration};

use super::{Reader, SourceHarness, assert_none, events};
use crate::{
    source::{EventSource, SourceErrorKind, SourceEvent, SourcePosition},
    testing::suite::within,
};

/// What nobody committed is delivered again to the next source, from the first record on.
pub async fn uncommitted_events_come_again<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..5)).await;
    let mut first = Reader::open(harness).await;
    assert_eq!(first.numbers(5).await, [0, 1, 2, 3, 4]);
    first.close().await;
    let mut second = Reader::open(harness).await;
    assert_eq!(second.numbers(5).await, [0, 1, 2, 3, 4]);
}

/// The next source starts behind what was committed.
pub async fn committed_events_do_not_come_again<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..3)).await;
    let mut first = Reader::open(harness).await;
    assert_eq!(first.numbers(3).await, [0, 1, 2]);
    first.commit().await;
    harness.produce(events(3..5)).await;
    assert_eq!(first.numbers(2).await, [3, 4], "a commit does not move delivery");
    first.close().await;

    let mut second = Reader::open(harness).await;
    assert_eq!(second.numbers(2).await, [3, 4]);
    second.commit().await;
    second.close().await;

    let mut third = Reader::open(harness).await;
    assert_none(third.batch(), "everything was committed").await;
}

/// A source started behind a position goes on there, whatever was committed.
pub async fn a_position_given_counts_more_than_the_commit<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..2)).await;
    let mut first = Reader::open(harness).await;
    assert_eq!(first.numbers(2).await, [0, 1]);
    let early = first.positions.clone();
    harness.produce(events(2..4)).await;
    assert_eq!(first.numbers(2).await, [2, 3]);
    first.commit().await;
    first.close().await;

    let mut second = Reader::open_at(harness, early).await;
    assert_eq!(second.numbers(2).await, [2, 3], "behind the position given, though more was committed");
}

/// A text that is no position of the partition is refused as [`SourceErrorKind::BadPosition`].
pub async fn a_foreign_position_is_refused<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..1)).await;
    let mut source = harness.open().await;
    let partition = within("an assignment", async {
        loop {
            if let SourceEvent::Assigned(partitions) = source.next().await.expect("next")
                && let Some(partition) = partitions.into_iter().next()
            {
                return partition;
            }
        }
    })
    .await;
    let nowhere = SourcePosition::from_text("no position of any source");
    let refused = source.start(&partition, Some(&nowhere)).await.expect_err("a foreign position");
    assert_eq!(refused.kind(), SourceErrorKind::BadPosition, "{refused}");
}

/// A source that is closed gives its partitions back, so that the next one gets them without waiting for a timeout.
pub async fn closing_gives_the_partitions_back<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..2)).await;
    let successions = async {
        let mut positions = HashMap::new();
        for _ in 0..3 {
            let mut reader = Reader::open(harness).await;
            assert_eq!(reader.numbers(2).await, [0, 1]);
            positions.extend(reader.close().await);
        }
        positions
    };
    // Brokers notice a member that merely vanished after 45 seconds by default.
    let positions = tokio::time::timeout(Duration::from_secs(30), successions).await.expect("three sources in time");
    assert_eq!(positions.len(), 1, "every source got the same partition");
}
