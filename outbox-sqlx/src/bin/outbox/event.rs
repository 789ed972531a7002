//! Events as people and programs read them.

use std::fmt::Write as _;

use outbox_core::event::{Headers, RecordedEvent, Sequence};
use serde_json::{Map, Value, json};

use crate::text::{moment, on_lines, on_one_line};

/// One line: what happened to what, and the payload in what is left of `width`.
pub(crate) fn line(recorded: &RecordedEvent, width: Option<usize>) -> String {
    let event = &recorded.event;
    let time = event.created_at.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S%.3f");
    let payload = event.payload.as_deref().map_or("(tombstone)".into(), String::from_utf8_lossy);
    let sequence = recorded.origin.sequence;
    let line = format!(
        "{sequence:>8}  {time}  {}/{}  {}  {payload}",
        event.aggregate_type, event.aggregate_id, event.event_type
    );
    on_one_line(&line, width)
}

/// Everything, on several lines.
pub(crate) fn lines(recorded: &RecordedEvent) -> String {
    let event = &recorded.event;
    let sequence = recorded.origin.sequence;
    let mut text = format!(
        "sequence      {sequence}  (position {} of generation {})\nid            {}\naggregate     {}/{}\ntype          {}\n",
        sequence.position(),
        sequence.generation(),
        event.id,
        event.aggregate_type,
        event.aggregate_id,
        event.event_type,
    );
    let mut fact = |name: &str, value: &str| {
        let _infallible = writeln!(text, "{name:<12}  {}", on_one_line(value, None));
    };
    fact("lane", &recorded.lane.to_string());
    if let Some(key) = &event.ordering_key {
        fact("ordering key", key.as_str());
    }
    if event.unordered {
        fact("unordered", "yes");
    }
    fact("created", &moment(event.created_at));
    fact("content type", event.content_type.as_str());
    for (name, value) in event.headers.iter() {
        fact("header", &format!("{name}: {}", String::from_utf8_lossy(value)));
    }
    match &event.payload {
        Some(payload) => {
            let _infallible = write!(text, "payload\n{}", on_lines(&String::from_utf8_lossy(payload)));
        }
        None => text.push_str("payload       none: a tombstone"),
    }
    text
}

/// Bytes that are no UTF-8 are hexadecimal, and `payload_encoding` or `encoding` says so.
pub(crate) fn json(recorded: &RecordedEvent) -> Map<String, Value> {
    let event = &recorded.event;
    let sequence = recorded.origin.sequence;
    let (payload, encoding) = event.payload.as_deref().map_or((Value::Null, Value::Null), bytes);
    let value = json!({
        "log": recorded.origin.log.to_string(),
        "sequence": sequence.get(),
        "generation": sequence.generation(),
        "position": sequence.position(),
        "lane": recorded.lane.get(),
        "id": event.id.to_string(),
        "aggregate_type": event.aggregate_type.as_str(),
        "aggregate_id": event.aggregate_id.as_str(),
        "ordering_key": event.ordering_key.as_ref().map(AsRef::<str>::as_ref),
        "unordered": event.unordered,
        "event_type": event.event_type.as_str(),
        "content_type": event.content_type.as_str(),
        "payload": payload,
        "payload_encoding": encoding,
        "headers": headers(&event.headers),
        "created_at": event.created_at,
    });
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn headers(headers: &Headers) -> Vec<Value> {
    let header = |(name, value): (&str, &bytes::Bytes)| {
        let (value, encoding) = bytes(value);
        json!({"name": name, "value": value, "encoding": encoding})
    };
    headers.iter().map(header).collect()
}

fn bytes(bytes: &[u8]) -> (Value, Value) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (text.into(), "utf-8".into());
    }
    let hex = bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    });
    (hex.into(), "hex".into())
}

/// Reads a sequence as messages carry it.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn sequence(text: &str) -> Result<Sequence, String> {
    let number = text.parse().ok().and_then(Sequence::from_raw);
    number.filter(|sequence| sequence.position() > 0).ok_or_else(|| format!("{text:?} is no sequence"))
}

/// The sequence before this one, to ask for what comes after.
pub(crate) fn before(sequence: Sequence) -> Option<Sequence> {
    Sequence::from_raw(sequence.get().saturating_sub(1))
}

/// `Type/id`.
#[derive(Debug, Clone)]
pub(crate) struct Aggregate {
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
}

impl std::str::FromStr for Aggregate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((kind, id)) if !kind.is_empty() && !id.is_empty() => {
                Ok(Self { aggregate_type: kind.to_owned(), aggregate_id: id.to_owned() })
            }
            _ => Err(format!("{text:?} is not Type/id, as in Tutor/42")),
        }
    }
}
