//! What is promised of positions: starting again, going back, and positions that fit no more.

use super::{Reader, SourceHarness, events};
use crate::{
    source::{EventSource, Partition, SourceErrorKind, SourceEvent, SourcePosition},
    testing::suite::{skip, within},
};

/// A partition that is being read goes back where another start says, with nothing of what was on its way.
pub async fn a_partition_started_again_goes_there<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..3)).await;
    let mut reader = Reader::open(harness).await;
    assert_eq!(reader.numbers(3).await, [0, 1, 2]);
    let (partition, behind_three) = reader.position();
    harness.produce(events(3..40)).await;
    let all: Vec<u64> = (3..40).collect();
    assert_eq!(reader.numbers(37).await, all);
    reader.source.start(&partition, Some(&behind_three)).await.expect("start");
    assert_eq!(reader.numbers(37).await, all, "from there again");
}

/// A source that rewinds delivers everything again, whatever was committed.
pub async fn a_rewind_delivers_everything_again<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..5)).await;
    let mut reader = Reader::open(harness).await;
    if !reader.source.capabilities().rewinds {
        skip("a_rewind_delivers_everything_again", "the source declares that it does not rewind");
        return;
    }
    assert_eq!(reader.numbers(5).await, [0, 1, 2, 3, 4]);
    reader.commit().await;
    let (partition, _) = reader.position();
    reader.source.rewind(&partition).await.expect("rewind");
    assert_eq!(reader.numbers(5).await, [0, 1, 2, 3, 4], "whatever was committed");
    reader.close().await;
}

/// A partition that was created again, and holds enough records to go on in its middle, is not read behind the old
/// position.
pub async fn a_recreated_partition_is_told_at_the_start<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..5)).await;
    let mut reader = Reader::open(harness).await;
    if !checks(&reader, "a_recreated_partition_is_told_at_the_start") {
        return;
    }
    assert_eq!(reader.numbers(5).await, [0, 1, 2, 3, 4]);
    let (partition, position) = reader.position();
    reader.close().await;
    assert!(harness.recreate().await, "a source that checks positions needs a harness that can recreate");
    harness.produce(events(10..18)).await;
    let mut reader = Reader::open(harness).await;
    assigned(&mut reader, &partition).await;
    assert_eq!(refused(&mut reader, &partition, &position).await, SourceErrorKind::Recreated);
    rewound(&mut reader, &partition).await;
    assert_eq!(reader.numbers(8).await, (10..18).collect::<Vec<_>>(), "all of the new ones");
}

/// A partition that ends before the position is not read from elsewhere.
pub async fn a_shorter_partition_is_told_at_the_start<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..5)).await;
    let mut reader = Reader::open(harness).await;
    if !checks(&reader, "a_shorter_partition_is_told_at_the_start") {
        return;
    }
    assert_eq!(reader.numbers(5).await, [0, 1, 2, 3, 4]);
    let (partition, position) = reader.position();
    reader.close().await;
    assert!(harness.recreate().await, "a source that checks positions needs a harness that can recreate");
    harness.produce(events(10..12)).await;
    let mut reader = Reader::open(harness).await;
    assigned(&mut reader, &partition).await;
    let kind = refused(&mut reader, &partition, &position).await;
    assert!([SourceErrorKind::Truncated, SourceErrorKind::Recreated].contains(&kind), "{kind:?}");
}

/// What was committed is checked as a position given is: a start behind it never begins in the middle of other records.
pub async fn a_commit_before_a_recreation_is_no_place_to_start<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..5)).await;
    let mut reader = Reader::open(harness).await;
    if !checks(&reader, "a_commit_before_a_recreation_is_no_place_to_start") {
        return;
    }
    assert_eq!(reader.numbers(5).await, [0, 1, 2, 3, 4]);
    reader.commit().await;
    let (partition, _) = reader.position();
    reader.close().await;
    assert!(harness.recreate().await, "a source that checks positions needs a harness that can recreate");
    harness.produce(events(10..18)).await;
    let mut reader = Reader::open(harness).await;
    assigned(&mut reader, &partition).await;
    match reader.source.start(&partition, None).await {
        // The commit went with what it belonged to.
        Ok(()) => assert_eq!(reader.numbers(8).await, (10..18).collect::<Vec<_>>(), "from the beginning"),
        Err(error) => assert!(error.kind().is_lost_position(), "{error}"),
    }
}

/// A partition that is created again while it is read is taken away and assigned anew before anything more of it comes,
/// and the start that follows refuses the old position.
pub async fn a_recreation_under_a_running_source_is_told<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..5)).await;
    let mut reader = Reader::open(harness).await;
    if !checks(&reader, "a_recreation_under_a_running_source_is_told") {
        return;
    }
    assert_eq!(reader.numbers(5).await, [0, 1, 2, 3, 4]);
    let (partition, position) = reader.position();
    assert!(harness.recreate().await, "a source that checks positions needs a harness that can recreate");
    harness.produce(events(10..18)).await;
    assigned(&mut reader, &partition).await;
    assert_eq!(refused(&mut reader, &partition, &position).await, SourceErrorKind::Recreated);
    rewound(&mut reader, &partition).await;
    assert_eq!(reader.numbers(8).await, (10..18).collect::<Vec<_>>(), "all of the new ones");
}

/// Events that retention removed before they were delivered are not passed over.
pub async fn events_that_expired_unread_are_told<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..2)).await;
    let mut reader = Reader::open(harness).await;
    if !checks(&reader, "events_that_expired_unread_are_told") {
        return;
    }
    assert_eq!(reader.numbers(2).await, [0, 1]);
    let (partition, position) = reader.position();
    reader.close().await;
    harness.produce(events(2..5)).await;
    assert!(harness.expire().await, "a source that checks positions needs a harness that can expire");
    harness.produce(events(5..7)).await;
    let mut reader = Reader::open(harness).await;
    assigned(&mut reader, &partition).await;
    assert_eq!(refused(&mut reader, &partition, &position).await, SourceErrorKind::Expired);
    rewound(&mut reader, &partition).await;
    assert_eq!(reader.numbers(2).await, [5, 6], "what is left");
}

/// Events that retention removes under a running source either came before, or are told.
pub async fn events_that_expire_under_a_running_source_are_told<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..2)).await;
    let mut reader = Reader::open(harness).await;
    if !checks(&reader, "events_that_expire_under_a_running_source_are_told") {
        return;
    }
    assert_eq!(reader.numbers(2).await, [0, 1]);
    let (partition, _) = reader.position();
    reader.source.pause(&partition).await.expect("pause");
    harness.produce(events(2..5)).await;
    assert!(harness.expire().await, "a source that checks positions needs a harness that can expire");
    harness.produce(events(5..7)).await;
    reader.source.resume(&partition).await.expect("resume");
    let mut came = Vec::new();
    let told = within("events, or word of their loss", async {
        while came.len() < 5 {
            match reader.source.next().await.expect("next") {
                SourceEvent::Assigned(partitions) if partitions.contains(&partition) => return true,
                SourceEvent::Batch(batch) => {
                    came.extend(super::numbers(&batch.records));
                    assert_eq!(came, (2..2 + came.len() as u64).collect::<Vec<_>>(), "nothing was passed over");
                    reader.positions.insert(batch.partition, batch.position);
                }
                _ => {}
            }
        }
        false
    })
    .await;
    if told {
        let (_, position) = reader.position();
        assert_eq!(refused(&mut reader, &partition, &position).await, SourceErrorKind::Expired);
    }
}

/// Retention that removes only what took effect disturbs nobody.
pub async fn a_position_outlives_the_records_before_it<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..3)).await;
    let mut reader = Reader::open(harness).await;
    if !checks(&reader, "a_position_outlives_the_records_before_it") {
        return;
    }
    assert_eq!(reader.numbers(3).await, [0, 1, 2]);
    let (partition, position) = reader.position();
    reader.close().await;
    assert!(harness.expire().await, "a source that checks positions needs a harness that can expire");
    let mut reader = Reader::open(harness).await;
    assigned(&mut reader, &partition).await;
    started(&mut reader, &partition, &position).await;
    harness.produce(events(3..5)).await;
    assert_eq!(reader.numbers(2).await, [3, 4]);
}

/// A source that was closed records nothing: the partition may be somebody else's.
pub async fn a_closed_source_commits_nothing<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..3)).await;
    let mut reader = Reader::open(harness).await;
    assert_eq!(reader.numbers(3).await, [0, 1, 2]);
    let (partition, position) = reader.position();
    within("close", reader.source.close()).await.expect("close");
    let late = reader.source.commit(&partition, &position).await.expect_err("a late commit");
    assert_eq!(late.kind(), SourceErrorKind::Revoked, "{late}");
    let mut second = Reader::open(harness).await;
    assert_eq!(second.numbers(3).await, [0, 1, 2]);
}

fn checks<S: EventSource>(reader: &Reader<S>, case: &str) -> bool {
    let checks = reader.source.capabilities().checked_positions;
    if !checks {
        skip(case, "the source declares that it does not check positions");
    }
    checks
}

/// Waits until the partition is assigned, in which nothing of it may come.
async fn assigned<S: EventSource>(reader: &mut Reader<S>, partition: &Partition) {
    within("an assignment", async {
        loop {
            match reader.source.next().await.expect("next") {
                SourceEvent::Assigned(partitions) if partitions.contains(partition) => return,
                SourceEvent::Batch(batch) => panic!("delivered as if nothing had happened: {:?}", batch.records),
                _ => {}
            }
        }
    })
    .await;
}

/// Why a start behind the position is refused. A broker that was just told to delete and create may not know yet.
async fn refused<S: EventSource>(
    reader: &mut Reader<S>,
    partition: &Partition,
    position: &SourcePosition,
) -> SourceErrorKind {
    within("an answer", async {
        loop {
            match reader.source.start(partition, Some(position)).await {
                Ok(()) => panic!("started behind {position:?} as if nothing had happened"),
                Err(error) if error.kind() == SourceErrorKind::Unavailable => {}
                Err(error) if error.kind() == SourceErrorKind::Revoked => assigned(reader, partition).await,
                Err(error) => return error.kind(),
            }
        }
    })
    .await
}

/// Starts behind the position, which is not refused.
async fn started<S: EventSource>(reader: &mut Reader<S>, partition: &Partition, position: &SourcePosition) {
    within("a start", async {
        loop {
            match reader.source.start(partition, Some(position)).await {
                Ok(()) => return,
                Err(error) if error.kind() == SourceErrorKind::Revoked => assigned(reader, partition).await,
                Err(error) => assert_eq!(error.kind(), SourceErrorKind::Unavailable, "nothing unread is gone: {error}"),
            }
        }
    })
    .await;
}

async fn rewound<S: EventSource>(reader: &mut Reader<S>, partition: &Partition) {
    within("a rewind", async {
        loop {
            match reader.source.rewind(partition).await {
                Ok(()) => return,
                Err(error) if error.kind() == SourceErrorKind::Revoked => assigned(reader, partition).await,
                Err(error) => assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{error}"),
            }
        }
    })
    .await;
    reader.positions.clear();
}
