//! What is promised while one source lives.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;

use super::{Reader, SourceHarness, assert_none, events, numbers, unstarted};
use crate::{
    event::NewEvent,
    source::{EventSource, SourceEvent, SourceRecord},
    testing::{
        event::{number_of, numbered},
        suite::{skip, within},
    },
};

/// An assigned partition delivers nothing until it is started, then everything.
pub async fn nothing_is_delivered_before_start<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..3)).await;
    let mut reader = Reader::open(harness).await;
    let assigned = within("an assignment", async {
        loop {
            match reader.source.next().await.expect("next") {
                SourceEvent::Assigned(partitions) if partitions.is_empty() => {}
                SourceEvent::Assigned(partitions) => return partitions,
                SourceEvent::Revoked(_) => {}
                SourceEvent::Batch(batch) => panic!("{batch:?} before any partition was started"),
            }
        }
    })
    .await;
    assert_none(unstarted(&mut reader.source), "no partition was started").await;
    for partition in &assigned {
        reader.source.start(partition, None).await.expect("start");
    }
    assert_eq!(reader.numbers(3).await, [0, 1, 2]);
}

/// Every event comes, once while nothing restarts, those of one key in order and with increasing sequences.
pub async fn every_event_is_delivered_in_order<H: SourceHarness>(harness: &H) {
    const KEYS: u64 = 5;
    const COUNT: u64 = 500;
    harness.produce((0..COUNT).map(|n| numbered(&format!("key-{}", n % KEYS), n)).collect()).await;
    let mut reader = Reader::open(harness).await;
    let records = reader.records(COUNT as usize).await;
    assert_eq!(records.len(), COUNT as usize, "no event comes twice");
    for k in 0..KEYS {
        let of_key: Vec<_> = records
            .iter()
            .filter_map(|record| match record {
                SourceRecord::Event { event, .. } => Some(event),
                SourceRecord::Undecodable { .. } => None,
            })
            .filter(|received| received.event.aggregate_id.as_str() == format!("key-{k}"))
            .collect();
        let numbers: Vec<_> = of_key.iter().filter_map(|received| number_of(&received.event)).collect();
        assert_eq!(numbers, (0..COUNT).filter(|n| n % KEYS == k).collect::<Vec<_>>(), "order within key {k}");
        let sequences: Vec<_> = of_key.iter().map(|received| received.origin.map(|o| o.sequence)).collect();
        assert!(
            sequences.iter().all(Option::is_none) || sequences.is_sorted_by(|a, b| a < b),
            "sequences within key {k}: {sequences:?}"
        );
    }
}

/// A source that has delivered everything waits, and delivers what comes later.
pub async fn events_that_come_later_are_delivered<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..2)).await;
    let mut reader = Reader::open(harness).await;
    assert_eq!(reader.numbers(2).await, [0, 1]);
    assert!(reader.batch().now_or_never().is_none(), "nothing more was written");
    harness.produce(events(2..4)).await;
    assert_eq!(reader.numbers(2).await, [2, 3]);
}

/// An event arrives with every field it was written with.
pub async fn events_arrive_as_they_were_written<H: SourceHarness>(harness: &H) {
    let written = [
        numbered("plain", 1),
        NewEvent::tombstone("Suite", "gone", "Erased").expect("event"),
        NewEvent::json("Suite", "Жанна \"%\\", "Имя", &serde_json::json!({"n": 2, "text": "\u{0}ü"}))
            .and_then(|e| e.with_ordering_key("room/1"))
            .and_then(|e| e.with_header("binary", Bytes::from_static(&[0, 0xff])))
            .expect("event"),
    ];
    harness.produce(written.to_vec()).await;
    let mut reader = Reader::open(harness).await;
    let records = reader.records(written.len()).await;
    for new in &written {
        let found = records.iter().find_map(|record| match record {
            SourceRecord::Event { event: received, .. } if received.event.id == new.event().id => Some(&received.event),
            _ => None,
        });
        assert_eq!(found, Some(new.event()));
    }
}

/// [`EventSource::next`] may be dropped at any moment: nothing is lost and nothing comes twice.
pub async fn a_dropped_next_loses_nothing<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..50)).await;
    let mut reader = Reader::open(harness).await;
    let mut seen = Vec::new();
    let reading = async {
        // At first it is polled once and dropped, then ever later: a source that asks a database gets no answer at once.
        let mut patience = Duration::ZERO;
        while seen.len() < 50 {
            match tokio::time::timeout(patience, reader.source.next()).await {
                Ok(Ok(SourceEvent::Batch(batch))) => seen.extend(numbers(&batch.records)),
                Ok(Ok(SourceEvent::Assigned(partitions))) => {
                    for partition in partitions {
                        reader.source.start(&partition, None).await.expect("start");
                    }
                }
                Ok(other) => drop(other.expect("next")),
                Err(_elapsed) => {
                    patience = (patience * 2).max(Duration::from_millis(1));
                    continue;
                }
            }
            patience = Duration::ZERO;
        }
    };
    within("every event, though next is dropped", reading).await;
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
}

/// A paused partition delivers nothing until it is resumed, then goes on where it was.
pub async fn a_paused_partition_is_silent<H: SourceHarness>(harness: &H) {
    harness.produce(events(0..3)).await;
    let mut reader = Reader::open(harness).await;
    assert_eq!(reader.numbers(3).await, [0, 1, 2]);
    let partition = reader.positions.keys().next().cloned().expect("one partition");
    reader.source.pause(&partition).await.expect("pause");
    harness.produce(events(3..6)).await;
    assert_none(reader.batch(), "the partition is paused").await;
    reader.source.resume(&partition).await.expect("resume");
    assert_eq!(reader.numbers(3).await, [3, 4, 5]);
}

/// A record that is no event is handed over in its place with its bytes, and the events around it come.
pub async fn what_is_no_event_is_handed_over<H: SourceHarness>(harness: &H) {
    let mut reader = Reader::open(harness).await;
    if !reader.source.capabilities().foreign_records {
        skip("what_is_no_event_is_handed_over", "the source declares that it has no foreign records");
        return;
    }
    let foreign = Bytes::from_static(b"\xff no event");
    harness.produce(events(0..1)).await;
    harness.produce_foreign(foreign.clone()).await;
    harness.produce(events(1..2)).await;
    let records = reader.records(3).await;
    assert_eq!(numbers(&records), [0, 1]);
    let undecodable: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            SourceRecord::Undecodable { reason, raw } => Some((reason, raw)),
            SourceRecord::Event { .. } => None,
        })
        .collect();
    assert_eq!(undecodable.len(), 1);
    assert_eq!(undecodable[0].1.payload, Some(foreign));
    assert!(!undecodable[0].0.is_empty(), "{undecodable:?}");
}
