//! Messages arrive, as they were sent and in order.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use outbox_core::{
    event::{LaneCount, LogId, NewEvent, Origin, RecordedEvent, Sequence},
    profile::{Profile, SeedEnvelope, TopicTable},
    publisher::{Message, PublishErrorKind, Publisher},
};
use outbox_kafka::{publisher::KafkaPublisher, topics::TopicSpec};

use crate::support::{Topic, Written, all_delivered, lane, open, send};

#[tokio::test]
async fn every_message_arrives_as_it_was_sent() {
    let topic = Topic::new(3).await;
    let publisher = topic.publisher().build().expect("settings");
    let headers = |list: &[(&str, &[u8])]| -> Vec<_> {
        list.iter().map(|(name, value)| ((*name).into(), Bytes::copy_from_slice(value))).collect()
    };
    let plain = topic.message("plain", 1);
    let sent = [
        plain.clone(),
        Message {
            headers: headers(&[("a", b"1"), ("a", b"2"), ("empty", b""), ("binary", &[0, 0xff])]),
            ..plain.clone()
        },
        Message { payload: None, key: Bytes::from_static(b"tombstone"), ..plain.clone() },
        Message {
            payload: Some(Bytes::new()), key: Bytes::from_static("ключ\u{1f980}".as_bytes()), ..plain.clone()
        },
        Message { key: Bytes::new(), ..plain },
    ];
    let mut stream = open(&publisher).await;
    all_delivered(send(stream.as_mut(), sent.to_vec()).await.as_mut()).await;

    let mut written: Vec<Written> = topic.read().await;
    let mut expected: Vec<Written> = sent
        .iter()
        .map(|m| Written {
            partition: 0,
            key: Some(m.key.to_vec()),
            payload: m.payload.as_ref().map(|p| p.to_vec()),
            headers: m.headers.iter().map(|(n, v)| (n.to_string(), v.to_vec())).collect(),
        })
        .collect();
    for record in &mut written {
        record.partition = 0;
    }
    let by = |w: &Written| format!("{w:?}");
    written.sort_by_key(by);
    expected.sort_by_key(by);
    assert_eq!(written, expected);
}

#[tokio::test]
async fn a_published_event_is_the_seeds_envelope_byte_by_byte() {
    let topic = Topic::new(3).await;
    let router: TopicTable = [("Tutor", topic.name.clone())].into_iter().collect();
    let profile = Profile::default().with_router(router).with_encoder(SeedEnvelope);
    let event = NewEvent::json("Tutor", 42, "TutorUpdated", &serde_json::json!({"id": 42, "full_name": "Анна"}))
        .expect("event")
        .with_id("01900000-0000-7000-8000-000000000001".parse().expect("id"))
        .with_created_at("2026-01-02T03:04:05.000006Z".parse().expect("time"))
        .into_event();
    let recorded = RecordedEvent {
        origin: Origin { log: LogId(event.id), sequence: Sequence::new(0, 7).expect("sequence") },
        lane: LaneCount::default().lane_of(&event.lane_key()),
        event,
    };
    let publisher = topic.publisher().build().expect("settings");
    let mut stream = open(&publisher).await;
    all_delivered(send(stream.as_mut(), vec![profile.message(&recorded).expect("message")]).await.as_mut()).await;

    let written = topic.read().await.remove(0);
    assert_eq!(written.key.as_deref(), Some(&b"42"[..]));
    let golden = r#"{"event_id":"01900000-0000-7000-8000-000000000001","event_type":"TutorUpdated","aggregate_type":"Tutor","aggregate_id":"42","payload":{"full_name":"Анна","id":42},"created_at":"2026-01-02T03:04:05.000006+00:00"}"#;
    assert_eq!(written.payload.as_deref().map(std::str::from_utf8), Some(Ok(golden)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_messages_of_a_key_pass_tiny_room_in_place() {
    let topic = Topic::new(3).await;
    pass_in_place(&topic, &topic.publisher().in_flight(7, 100).build().expect("settings")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_messages_of_a_key_pass_a_tiny_queue_in_place() {
    let topic = Topic::new(3).await;
    let publisher = topic.publisher().setting("queue.buffering.max.messages", "10").build().expect("settings");
    pass_in_place(&topic, &publisher).await;
}

async fn pass_in_place(topic: &Topic, publisher: &KafkaPublisher) {
    let mut stream = open(publisher).await;
    let numbers: Vec<usize> = (0..3_000).collect();
    let mut waiting = Vec::new();
    for chunk in numbers.chunks(5) {
        let messages = chunk.iter().map(|n| topic.message("one", *n)).collect();
        let mut delivery = send(stream.as_mut(), messages).await;
        waiting.push(tokio::spawn(async move { all_delivered(delivery.as_mut()).await }));
    }
    for delivered in waiting {
        delivered.await.expect("delivered");
    }
    assert_eq!(topic.numbers("one").await, numbers);
}

#[tokio::test]
async fn a_batch_larger_than_all_the_room_is_sent() {
    let topic = Topic::new(1).await;
    let publisher = topic.publisher().in_flight(3, 10).build().expect("settings");
    let mut stream = open(&publisher).await;
    for round in 0..3 {
        let messages = (0..50).map(|n| topic.message("one", round * 50 + n)).collect();
        all_delivered(send(stream.as_mut(), messages).await.as_mut()).await;
    }
    assert_eq!(topic.numbers("one").await, (0..150).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_keep_their_order_under_eight_lanes() {
    const KEYS: usize = 10;
    const EACH: usize = 60;
    let topic = Topic::new(12).await;
    let publisher = topic.publisher().in_flight(300, 1 << 20).build().expect("settings");
    let lanes = (0..8u8).map(|number| {
        let (publisher, topic) = (&publisher, &topic);
        async move {
            let mut stream = publisher.open(lane(number)).await.expect("a stream");
            let messages: Vec<Message> =
                (0..EACH * KEYS).map(|n| topic.message(&format!("{number}/{}", n % KEYS), n / KEYS)).collect();
            let mut deliveries = Vec::new();
            for chunk in messages.chunks(25) {
                deliveries.push(send(stream.as_mut(), chunk.to_vec()).await);
            }
            for mut delivery in deliveries {
                all_delivered(delivery.as_mut()).await;
            }
        }
    });
    join_all(lanes).await;

    let mut by_key = BTreeMap::<Vec<u8>, (i32, Vec<usize>)>::new();
    for record in topic.read().await {
        let key = record.key.clone().expect("a key");
        let entry = by_key.entry(key).or_insert((record.partition, Vec::new()));
        assert_eq!(entry.0, record.partition, "a key has one partition");
        entry.1.push(record.number());
    }
    assert_eq!(by_key.len(), 8 * KEYS);
    for (key, (_, numbers)) in by_key {
        assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "key {:?}", String::from_utf8_lossy(&key));
    }
}

#[tokio::test]
async fn shutting_down_waits_for_what_was_accepted_and_allows_to_begin_again() {
    let topic = Topic::new(3).await;
    let publisher = topic.publisher().build().expect("settings");
    let mut stream = open(&publisher).await;
    let mut delivery = send(stream.as_mut(), (0..1_000).map(|n| topic.message("one", n)).collect()).await;
    assert!(publisher.shut_down(Duration::from_secs(20)).await, "in time");
    all_delivered(delivery.as_mut()).await;
    assert!(publisher.shut_down(Duration::ZERO).await, "there is nothing to wait for");
    all_delivered(send(stream.as_mut(), vec![topic.message("one", 1_000)]).await.as_mut()).await;
    assert_eq!(topic.numbers("one").await, (0..=1_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn topics_are_made_once_and_left_as_they_are() {
    let servers = test_services::kafka_bootstrap().await;
    let publisher = KafkaPublisher::builder(&servers).build().expect("settings");
    let name = test_services::unique("outbox-kafka");
    for partitions in [3, 3, 5] {
        publisher.ensure_topics(&[TopicSpec::new(&name, partitions, 1)]).await.expect("a topic");
    }
    publisher.ensure_topics(&[]).await.expect("nothing to do");
    let refused = publisher.ensure_topics(&[TopicSpec::new("no topic name", 1, 1)]).await.expect_err("a bad name");
    assert_eq!(refused.kind(), PublishErrorKind::Configuration);
    assert!(refused.to_string().contains("no topic name"), "{refused}");
}

#[tokio::test]
async fn bad_settings_are_refused_before_anything_is_sent() {
    let refused = |name: &str, value: &str| {
        let built = KafkaPublisher::builder("localhost:1").setting(name, value).build();
        let error = built.expect_err(name);
        assert_eq!(error.kind(), PublishErrorKind::Configuration);
        error.to_string()
    };
    assert!(refused("acks", "1").contains("acknowledged message could be lost"));
    assert!(refused("lingr.ms", "1").contains("lingr.ms"));
    let allowed = KafkaPublisher::builder("localhost:1")
        .setting("enable.gapless.guarantee", "false")
        .allow_dangerous("enable.gapless.guarantee")
        .build()
        .expect("allowed");
    assert!(!allowed.capabilities().keeps_order_after_failure, "what was given up is declared");
}
