//! Our topics, read by programs that know nothing of this library.

use std::{collections::HashMap, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use outbox_core::{
    event::{Event, NewEvent},
    outbox::Outbox,
    profile::{CloudEvents, Profile},
    relay::Relay,
};
use outbox_kafka::{KafkaPublisher, TopicSpec};
use outbox_sqlx::SqliteLog;
use serde_json::{Value, json};
use sqlx::sqlite::SqlitePoolOptions;
use test_services::{kafka_bootstrap, python, unique};
use tokio::{process::Command, sync::oneshot};

use crate::{events, hex};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_mins(3);

/// The consumer is written from the description of the original marketplace; so are its topic and its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_of_the_original_reads_our_topic() {
    let aggregate_type = unique("tutor").replace("tutor-", "Tutor");
    let topic = format!("{}-events", aggregate_type.to_lowercase());
    let tutor = |id: u32, event_type: &str, price: u32| {
        let payload = json!({ "id": id, "full_name": format!("Анна \"{id}\" 🦉"), "hourly_rate": price });
        NewEvent::json(&aggregate_type, id, event_type, &payload).expect("event")
    };
    let mut written = Vec::new();
    for id in 0..50 {
        written.push(tutor(id, "TutorCreated", 1_000));
        written.push(tutor(id, "TutorUpdated", 1_000 + id));
        if id % 5 == 0 {
            let deleted = NewEvent::json(&aggregate_type, id, "TutorDeleted", &json!({ "id": id }));
            written.push(deleted.expect("event"));
            written.push(NewEvent::tombstone(&aggregate_type, id, "TutorErased").expect("event"));
        }
    }
    relay(Profile::default(), &topic, &written).await;

    let read = read("consumer.py", &topic, written.len()).await;
    let mut expected: HashMap<&str, Vec<Value>> = HashMap::new();
    for event in written.iter().map(NewEvent::event) {
        expected.entry(event.aggregate_id.as_str()).or_default().push(envelope(event));
    }
    let mut came: HashMap<&str, Vec<Value>> = HashMap::new();
    for message in read["messages"].as_array().expect("list") {
        came.entry(message["aggregate_id"].as_str().expect("text")).or_default().push(message.clone());
    }
    assert_eq!(came, expected, "every field of every event, in the order of its aggregate");
    let left: Vec<Value> =
        (0..50).filter(|id| id % 5 != 0).map(|id| payload(tutor(id, "TutorUpdated", 1_000 + id).event())).collect();
    assert_eq!(read["documents"], json!(left), "the read model");
}

fn envelope(event: &Event) -> Value {
    json!({
        "event_id": event.id.to_string(),
        "event_type": event.event_type.as_str(),
        "aggregate_type": event.aggregate_type.as_str(),
        "aggregate_id": event.aggregate_id.as_str(),
        "payload": payload(event),
        "created_at": event.created_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, false),
    })
}

fn payload(event: &Event) -> Value {
    event.payload.as_ref().map_or(Value::Null, |bytes| serde_json::from_slice(bytes).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cloud_events_sdk_reads_structured_messages() {
    the_sdk_reads(CloudEvents::structured(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cloud_events_sdk_reads_binary_messages() {
    the_sdk_reads(CloudEvents::binary(), true).await;
}

async fn the_sdk_reads(encoder: CloudEvents, binary: bool) {
    let topic = unique("cloud-events");
    let route = topic.clone();
    let encoder = encoder.with_source("https://example.org/tutors").expect("source");
    let profile = Profile::default().with_encoder(encoder).with_router(move |_: &Event| route.clone());
    let written: Vec<NewEvent> =
        events::all().into_iter().map(|(_, event)| event).filter(|event| profile.check(event).is_ok()).collect();
    relay(profile, &topic, &written).await;

    let read = read("cloud_events.py", &topic, written.len()).await;
    let mut came: HashMap<&str, &Value> =
        read.as_array().expect("list").iter().map(|e| (e["attributes"]["id"].as_str().expect("id"), e)).collect();
    for event in written.iter().map(NewEvent::event) {
        let message = came.remove(&*event.id.to_string()).expect("each event comes once");
        let attribute = |name: &str| message["attributes"][name].as_str();
        assert_eq!(attribute("specversion"), Some("1.0"));
        assert_eq!(attribute("source"), Some("https://example.org/tutors"));
        assert_eq!(attribute("type"), Some(event.event_type.as_str()));
        assert_eq!(attribute("subject"), Some(event.aggregate_id.as_str()));
        assert_eq!(attribute("aggregatetype"), Some("Tutor"));
        assert_eq!(attribute("partitionkey"), Some(event.message_key()));
        assert_eq!(attribute("orderingkey"), event.ordering_key.as_ref().map(AsRef::as_ref));
        assert_eq!(attribute("datacontenttype"), Some(event.content_type.as_str()));
        let parent = event.headers.first("traceparent").map(|value| std::str::from_utf8(value).expect("text"));
        assert_eq!(attribute("traceparent"), parent);
        let time = attribute("time").expect("time").replace(' ', "T");
        assert_eq!(time, event.created_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, false));
        let placed = attribute("sequence").is_some_and(|digits| digits.len() == 19) && attribute("logid").is_some();
        assert_eq!(placed, !event.unordered);
        assert_eq!(attribute("unordered").is_some(), event.unordered);
        assert_eq!(message["value_is_null"], json!(binary && event.payload.is_none()));
        assert_eq!(message["data"], data(event, binary), "{event:?}");
    }
    assert!(came.is_empty(), "invented: {came:?}");
}

/// What the SDK makes of a payload.
fn data(event: &Event, binary: bool) -> Value {
    match event.payload.as_deref() {
        None => Value::Null,
        Some(_) if event.content_type.is_json() => payload(event),
        Some(b"") if binary => Value::Null, // the SDK does not tell an empty value from none
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if binary => json!(text), // it guesses
            _ => json!({ "hex": hex(bytes) }),
        },
    }
}

/// Appends the events to a log in a SQLite file and relays them to the topic.
async fn relay(profile: Profile, topic: &str, events: &[NewEvent]) {
    let folder = tempfile::tempdir().expect("folder");
    let options = SqliteLog::connect_options(folder.path().join("log.sqlite"));
    let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.expect("file");
    let read = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.expect("file");
    let log = SqliteLog::builder(write.clone()).read_pool(read).profile(profile.clone()).build();
    log.migrate().await.expect("migrate");
    let mut tx = write.begin_with("BEGIN IMMEDIATE").await.expect("begin");
    let receipt = log.append(&mut tx, events).await.expect("append");
    tx.commit().await.expect("commit");
    receipt.committed();

    let publisher = KafkaPublisher::builder(kafka_bootstrap().await).build().expect("publisher");
    publisher.ensure_topics(&[TopicSpec::new(topic, 3, 1)]).await.expect("topic");
    let relay = Relay::builder(Arc::new(log), Arc::new(publisher), profile).build();
    let mut status = relay.status();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(async move { relay.run(async { _ = stopped.await }).await });
    let all = events.len() as u64;
    let arrived = tokio::time::timeout(PATIENCE, status.wait_for(|status| status.published >= all)).await;
    arrived.expect("published in time").expect("the relay runs");
    drop(stop);
    running.await.expect("no panic").expect("no error");
}

/// What a program of this folder prints about the topic, as JSON.
async fn read(program: &str, topic: &str, events: usize) -> Value {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire").join(program);
    let output = Command::new(python())
        .arg(&program)
        .args([kafka_bootstrap().await, topic.to_owned(), events.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("read in time").expect("Python starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} ended with {}:\n{said}", program.display(), output.status);
    serde_json::from_slice(&output.stdout).expect("JSON")
}
