//! One source by itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use outbox_core::{
    event::NewEvent,
    profile::{Profile, TopicTable},
    publisher::Message,
    source::{Batch, EventSource, Partition, SourceErrorKind, SourceEvent, SourcePosition, SourceRecord},
    testing::Sequencer,
};
use outbox_kafka::source::{KafkaSource, KafkaSourceBuilder};
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};

use crate::support::{PATIENCE, Topic, all_delivered, open, send, within};

pub(crate) fn source(topic: &Topic, group: &str) -> KafkaSourceBuilder {
    // Members learn of a rebalance with their next heartbeat.
    KafkaSource::builder(&topic.servers, group, [&*topic.name]).setting("heartbeat.interval.ms", "200")
}

/// Messages of events numbered so, spread over some keys.
pub(crate) fn events(topic: &Topic, numbers: std::ops::Range<usize>) -> Vec<(NewEvent, Message)> {
    let router: TopicTable = [("Tutor", topic.name.clone())].into_iter().collect();
    let profile = Profile::default().with_router(router);
    let sequencer = Sequencer::default();
    numbers
        .map(|n| {
            let event = NewEvent::json("Tutor", n % 7, "TutorUpdated", &serde_json::json!({ "n": n })).expect("event");
            let message = profile.message(&sequencer.record(event.clone())).expect("message");
            (event, message)
        })
        .collect()
}

pub(crate) async fn publish(topic: &Topic, messages: Vec<Message>) {
    let publisher = topic.publisher().build().expect("settings");
    let mut stream = open(&publisher).await;
    // A few come in just this order, also between keys; of many only those of one key do.
    let together = if messages.len() <= 100 { 1 } else { messages.len() };
    for some in messages.chunks(together) {
        all_delivered(send(stream.as_mut(), some.to_vec()).await.as_mut()).await;
    }
}

/// The next batch; what is assigned is started behind the position given for it.
pub(crate) async fn batch(source: &mut KafkaSource, after: &BTreeMap<Partition, SourcePosition>) -> Batch {
    within("a batch", async {
        loop {
            match source.next().await.expect("next") {
                SourceEvent::Assigned(partitions) => {
                    for partition in partitions {
                        source.start(&partition, after.get(&partition)).await.expect("start");
                    }
                }
                SourceEvent::Batch(batch) => return batch,
                _ => {}
            }
        }
    })
    .await
}

pub(crate) async fn assigned(source: &mut KafkaSource) -> Vec<Partition> {
    within("an assignment", async {
        loop {
            if let SourceEvent::Assigned(partitions) = source.next().await.expect("next")
                && !partitions.is_empty()
            {
                return partitions;
            }
        }
    })
    .await
}

pub(crate) fn number(record: &SourceRecord) -> usize {
    let SourceRecord::Event { event: received, .. } = record else { panic!("{record:?}") };
    let payload: serde_json::Value =
        serde_json::from_slice(received.event.payload.as_deref().expect("a body")).expect("JSON");
    usize::try_from(payload["n"].as_u64().expect("a number")).expect("small")
}

/// Whoever stands by has to know that all is well.
#[tokio::test]
async fn a_member_that_gets_nothing_is_told_so() {
    let topic = Topic::new(1).await;
    let group = test_services::unique("group");
    let mut first = source(&topic, &group).build().expect("settings");
    assert_eq!(assigned(&mut first).await.len(), 1);
    let mut second = source(&topic, &group).build().expect("settings");
    let told = within("word of the group", async {
        loop {
            tokio::select! {
                told = second.next() => return told.expect("next"),
                _nothing = first.next() => {}
            }
        }
    })
    .await;
    assert!(matches!(&told, SourceEvent::Assigned(none) if none.is_empty()), "{told:?}");
}

#[tokio::test]
async fn what_was_published_comes_back_equal() {
    let topic = Topic::new(3).await;
    let (written, messages): (Vec<NewEvent>, Vec<Message>) = events(&topic, 0..20).into_iter().unzip();
    publish(&topic, messages).await;
    let mut source = source(&topic, &test_services::unique("group")).build().expect("settings");
    let mut read = BTreeMap::new();
    while read.len() < 20 {
        for record in batch(&mut source, &BTreeMap::new()).await.records {
            let SourceRecord::Event { event: received, .. } = record else { panic!("{record:?}") };
            assert!(received.origin.is_some(), "sequence and log came along");
            read.insert(received.event.id, received.event);
        }
    }
    for event in written {
        assert_eq!(read.get(&event.event().id), Some(event.event()));
    }
    within("close", source.close()).await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_comes_once_and_in_order_while_partitions_are_paused_and_resumed() {
    const COUNT: usize = 6_000;
    let topic = Topic::new(3).await;
    let messages = events(&topic, 0..COUNT).into_iter().map(|(_, message)| message).collect();
    publish(&topic, messages).await;
    // So small a batch that partitions fill up and are paused all the time.
    let mut source = source(&topic, &test_services::unique("group")).batch(20).build().expect("settings");
    let mut by_key = BTreeMap::<usize, Vec<usize>>::new();
    let mut count = 0;
    while count < COUNT {
        let batch = batch(&mut source, &BTreeMap::new()).await;
        assert!((1..=20).contains(&batch.records.len()));
        count += batch.records.len();
        for n in batch.records.iter().map(number) {
            by_key.entry(n % 7).or_default().push(n);
        }
    }
    for (key, numbers) in by_key {
        assert_eq!(numbers, (0..COUNT).filter(|n| n % 7 == key).collect::<Vec<_>>(), "key {key}");
    }
}

#[tokio::test]
async fn a_start_goes_on_exactly_behind_its_position() {
    let topic = Topic::new(1).await;
    publish(&topic, events(&topic, 0..30).into_iter().map(|(_, m)| m).collect()).await;
    let group = test_services::unique("group");
    let mut first = source(&topic, &group).batch(10).build().expect("settings");
    let some = batch(&mut first, &BTreeMap::new()).await;
    let seen = some.records.len();
    let Some(SourceRecord::Event { event: last, .. }) = some.records.last() else { panic!("{:?}", some.records) };
    let id = last.event.id;
    assert_eq!(some.position.as_text(), format!("{seen}:{id}"), "the offset of the next record, and what the last was");
    assert!(some.partition.as_str().ends_with(&format!("/{}/0", topic.name)), "{}", some.partition);
    within("close", first.close()).await.expect("close");

    // Nothing was committed: only the position counts.
    let after = [(some.partition.clone(), some.position.clone())].into();
    let mut second = source(&topic, &group).batch(10).build().expect("settings");
    let next = batch(&mut second, &after).await;
    assert_eq!(number(&next.records[0]), seen);
    // Started again while it runs, it goes back.
    second.start(&next.partition, Some(&SourcePosition::from_text("5"))).await.expect("start");
    let mut numbers = Vec::new();
    while numbers.len() < 25 {
        numbers.extend(batch(&mut second, &after).await.records.iter().map(number));
    }
    assert_eq!(numbers, (5..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn positions_outside_of_the_partition_are_refused() {
    let topic = Topic::new(1).await;
    publish(&topic, events(&topic, 0..3).into_iter().map(|(_, m)| m).collect()).await;
    let mut source = source(&topic, &test_services::unique("group")).build().expect("settings");
    let partition = assigned(&mut source).await.remove(0);
    let (bad, truncated) = (SourceErrorKind::BadPosition, SourceErrorKind::Truncated);
    for (position, kind) in [("4", truncated), ("-1", bad), ("x", bad), ("3:x", bad)] {
        let refused = source.start(&partition, Some(&SourcePosition::from_text(position))).await.expect_err(position);
        assert_eq!(refused.kind(), kind, "{position}: {refused}");
    }
    source.start(&partition, Some(&SourcePosition::from_text("3"))).await.expect("the end is a position");
    let elsewhere = Partition::new("c/other/0");
    assert_eq!(source.start(&elsewhere, None).await.expect_err("foreign").kind(), SourceErrorKind::Revoked);
    let commit = source.commit(&elsewhere, &SourcePosition::from_text("1")).await;
    assert_eq!(commit.expect_err("foreign").kind(), SourceErrorKind::Revoked);
}

#[tokio::test]
async fn undecodable_records_come_with_their_bytes_and_the_rest_flows() {
    let topic = Topic::new(1).await;
    let mut messages: Vec<Message> = events(&topic, 0..4).into_iter().map(|(_, m)| m).collect();
    let garbage = Message {
        payload: Some(Bytes::from_static(b"\xffnot json")),
        headers: vec![("trace".into(), Bytes::from_static(b"1"))],
        ..topic.message("bad", 0)
    };
    let tombstone = Message { payload: None, ..topic.message("gone", 0) };
    messages.insert(1, garbage.clone());
    messages.insert(3, tombstone);
    publish(&topic, messages).await;
    let mut source = source(&topic, &test_services::unique("group")).build().expect("settings");
    let mut records = Vec::new();
    while records.len() < 6 {
        records.extend(batch(&mut source, &BTreeMap::new()).await.records);
    }
    let SourceRecord::Undecodable { reason, raw: first } = &records[1] else { panic!("{:?}", records[1]) };
    assert_eq!(first.offset, 1);
    assert_eq!((&first.key, &first.payload, &first.headers), (&Some(garbage.key), &garbage.payload, &garbage.headers));
    assert!(reason.contains("JSON"), "{reason}");
    let SourceRecord::Undecodable { raw: second, .. } = &records[3] else { panic!("{:?}", records[3]) };
    assert_eq!(second.payload, None);
    let numbers: Vec<usize> = [0, 2, 4, 5].iter().map(|n| number(&records[*n])).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
}

#[tokio::test]
async fn what_another_writer_of_the_envelope_wrote_is_decoded() {
    let topic = Topic::new(3).await;
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &topic.servers).create().expect("a producer");
    let body = r#"{"event_id": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "event_type": "TutorDeleted", "aggregate_type": "Tutor", "aggregate_id": "7", "payload": {"id": 7}, "created_at": "2025-12-25T10:00:00+00:00"}"#;
    producer.send(FutureRecord::to(&topic.name).key("7").payload(body), PATIENCE).await.expect("written");
    let mut source = source(&topic, &test_services::unique("group")).build().expect("settings");
    let SourceRecord::Event { event: received, .. } = batch(&mut source, &BTreeMap::new()).await.records.remove(0)
    else {
        panic!("undecodable")
    };
    assert_eq!(received.origin, None);
    assert_eq!(received.event.event_type.as_str(), "TutorDeleted");
    assert_eq!(received.event.payload.as_deref(), Some(&br#"{"id": 7}"#[..]));
}

#[tokio::test]
async fn batches_have_so_many_bytes_and_wait_to_be_full() {
    const BYTES: usize = 3_000;
    let topic = Topic::new(1).await;
    let messages: Vec<Message> = events(&topic, 0..30).into_iter().map(|(_, m)| m).collect();
    let size = |message: &Message| message.key.len() + message.payload.as_ref().map_or(0, Bytes::len);
    let sizes: Vec<usize> = messages.iter().map(size).collect();
    publish(&topic, messages).await;
    let mut small = source(&topic, &test_services::unique("group")).batch_bytes(BYTES).build().expect("settings");
    let mut count = 0;
    while count < 30 {
        let came = batch(&mut small, &BTreeMap::new()).await.records.len();
        let bytes: usize = sizes[count..count + came].iter().sum();
        assert!(bytes <= BYTES, "{came} records of {bytes} bytes");
        count += came;
    }

    let patient = source(&topic, &test_services::unique("group")).batch(40).batch_wait(PATIENCE * 10);
    let mut patient = patient.build().expect("settings");
    let from_nowhere = BTreeMap::new();
    let (came, ()) = tokio::join!(batch(&mut patient, &from_nowhere), async {
        for (_, message) in events(&topic, 30..40) {
            publish(&topic, vec![message]).await;
        }
    });
    assert_eq!(came.records.len(), 40);
}

#[tokio::test]
async fn where_nothing_was_committed_the_setting_says_where_to_begin() {
    let topic = Topic::new(1).await;
    publish(&topic, events(&topic, 0..3).into_iter().map(|(_, m)| m).collect()).await;
    let with = |reset: &str| {
        source(&topic, &test_services::unique("group")).setting("auto.offset.reset", reset).build().expect("settings")
    };
    let mut refusing = with("error");
    let partition = assigned(&mut refusing).await.remove(0);
    let refused = refusing.start(&partition, None).await.expect_err("nothing to go by");
    assert_eq!(refused.kind(), SourceErrorKind::Configuration, "{refused}");
    refusing.rewind(&partition).await.expect("the beginning is a choice too");
    assert_eq!(number(&batch(&mut refusing, &BTreeMap::new()).await.records[0]), 0);

    let mut latest = with("latest");
    let partition = assigned(&mut latest).await.remove(0);
    latest.start(&partition, None).await.expect("start");
    publish(&topic, events(&topic, 3..4).into_iter().map(|(_, m)| m).collect()).await;
    assert_eq!(number(&batch(&mut latest, &BTreeMap::new()).await.records[0]), 3);
}

#[tokio::test]
async fn settings_that_lose_events_are_refused() {
    let build = |builder: KafkaSourceBuilder| builder.build().map(|_| ());
    let new = || KafkaSource::builder("localhost:1", "group", ["topic"]);
    let refused = build(new().setting("enable.auto.commit", "true")).expect_err("auto commit");
    assert_eq!(refused.kind(), SourceErrorKind::Configuration);
    assert!(refused.to_string().contains("before their events took effect"), "{refused}");
    build(new().setting("enable.auto.commit", "true").allow_dangerous("enable.auto.commit")).expect("allowed");
    build(KafkaSource::builder::<&str>("localhost:1", "group", [])).expect_err("no topic");
}
