//! Written examples of every format. Bytes that change here change for every consumer there is.
//!
//! After a change on purpose: `OUTBOX_WRITE_GOLDEN=1 cargo test --test wire golden`, and read the difference.

use std::{fs, path::PathBuf, sync::Arc};

use bytes::Bytes;
use outbox_core::{
    event::ReceivedEvent,
    profile::{CloudEvents, Decoder, Encoder, LeanEnvelope, Profile, RawPayload, SeedEnvelope},
};
use serde_json::{Value, json};

use crate::{events, hex};

#[test]
fn seed_envelope() {
    compare("seed-envelope", SeedEnvelope);
}

#[test]
fn lean_envelope() {
    compare("lean-envelope", LeanEnvelope);
}

#[test]
fn cloud_events_structured() {
    compare("cloud-events-structured", CloudEvents::structured());
}

#[test]
fn cloud_events_binary() {
    let encoder = CloudEvents::binary().with_source("https://example.org/tutors").expect("source");
    compare("cloud-events-binary", encoder);
}

#[test]
fn raw_payload() {
    compare("raw-payload", RawPayload);
}

#[test]
fn the_examples_of_the_documentation_are_golden() {
    let read = |path: &str| fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path);
    let golden =
        ["seed-envelope", "cloud-events-structured"].map(|name| read(&format!("tests/wire/golden/{name}.json")));
    let bodies: Vec<Value> = golden
        .iter()
        .flat_map(|file| serde_json::from_str::<Vec<Value>>(file).expect("a golden file is JSON"))
        .map(|message| message["body"].clone())
        .collect();
    let page = read("docs/wire-format.md");
    let examples: Vec<&str> = page.split("```json\n").skip(1).filter_map(|rest| rest.lines().next()).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        assert!(bodies.contains(&json!(example)), "no golden file has {example}");
    }
}

fn compare(name: &str, codec: impl Encoder + Decoder + Clone + 'static) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire/golden").join(format!("{name}.json"));
    let profile = Profile::default().with_encoder(codec.clone());
    if std::env::var_os("OUTBOX_WRITE_GOLDEN").is_some() {
        fs::write(&file, one_fact_a_line(&messages(&profile))).expect("the golden file is written");
    }
    let golden = fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let golden: Value = serde_json::from_slice(&golden).expect("a golden file is JSON");
    for (written, golden) in messages(&profile).as_array().expect("list").iter().zip(golden.as_array().expect("list")) {
        assert_eq!(
            written, golden,
            "the bytes of {name} changed. If that is meant: OUTBOX_WRITE_GOLDEN=1 cargo test --test wire golden"
        );
    }
    assert_eq!(golden.as_array().map(Vec::len), Some(events::all().len()));
    read_back(&codec, &golden);
}

/// What the profile makes of each event.
fn messages(profile: &Profile) -> Value {
    let message = |(n, (name, event)): (usize, (&str, _))| {
        if let Err(refused) = profile.check(&event) {
            return json!({ "event": name, "refused": refused.to_string() });
        }
        let message = profile.message(&events::recorded(event.into_event(), n as u64 + 1)).expect("message");
        let headers: Vec<Value> = message.headers.iter().map(|(name, value)| json!([&**name, text(value)])).collect();
        let body = message.payload.as_ref().map(text);
        json!({ "event": name, "topic": &*message.topic, "key": text(&message.key), "headers": headers, "body": body })
    };
    events::all().into_iter().enumerate().map(message).collect()
}

/// For people to read, and for `git diff`.
fn one_fact_a_line(messages: &Value) -> String {
    let list = |items: &[Value], open: &str, close: &str, item: &dyn Fn(&Value) -> String| {
        let items: Vec<String> = items.iter().map(item).collect();
        format!("{open}{}{close}", items.join(","))
    };
    let message = |message: &Value| {
        let fact = |name: &&str| {
            let value = match &message[*name] {
                Value::Array(headers) => list(headers, "[", "]", &|header| format!("\n    {header}")),
                value => value.to_string(),
            };
            format!("\n  \"{name}\": {value}")
        };
        let names = ["event", "refused", "topic", "key", "headers", "body"];
        let facts: Vec<String> = names.iter().filter(|name| message.get(**name).is_some()).map(fact).collect();
        format!("\n{{{}}}", facts.join(","))
    };
    list(messages.as_array().expect("list"), "[", "]\n", &message)
}

/// The decoder reads the file, not what was just encoded.
fn read_back(codec: &impl Decoder, golden: &Value) {
    for (n, (name, event)) in events::all().into_iter().enumerate() {
        let message = &golden[n];
        if message.get("refused").is_some() {
            continue;
        }
        let body = (!message["body"].is_null()).then(|| bytes(&message["body"]));
        let headers: Vec<(Arc<str>, Bytes)> = message["headers"]
            .as_array()
            .expect("headers")
            .iter()
            .map(|header| (header[0].as_str().expect("name").into(), bytes(&header[1])))
            .collect();
        let received = codec.decode(Some(&bytes(&message["key"])), body.as_ref(), &headers);
        let recorded = events::recorded(event.into_event(), n as u64 + 1);
        assert_eq!(received.unwrap_or_else(|e| panic!("{name}: {e}")), ReceivedEvent::from(recorded), "{name}");
    }
}

/// Text where it is text, hexadecimal digits where it is not.
fn text(bytes: &Bytes) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": hex(bytes) }),
    }
}

fn bytes(value: &Value) -> Bytes {
    if let Some(text) = value.as_str() {
        return Bytes::copy_from_slice(text.as_bytes());
    }
    let digits = value["hex"].as_str().expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits")).collect()
}
