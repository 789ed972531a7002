//! Stores of documents, in memory: the suites, and what the projections make of a store that fails.

mod broken;
mod conformance;
mod faulty;
mod letters;
mod positioned;
mod running;
mod versioned;

use bytes::Bytes;
use outbox_core::{error::BoxError, event::ReceivedEvent, testing::number_of};
use outbox_projector::external::{Change, MemoryDocuments};
use serde_json::{Value, json};

/// The suites' events as documents: `Counted` carries a number, `Erased` deletes.
fn change(received: &ReceivedEvent) -> Result<Option<Change>, BoxError> {
    let event = &received.event;
    let id = format!("{}/{}", event.aggregate_type, event.message_key());
    match event.event_type.as_str() {
        "Counted" => {
            let number = number_of(event).ok_or("it carries no number")?;
            Ok(Some(Change::store(id.clone(), document(&id, number, 0))))
        }
        "Erased" => Ok(Some(Change::delete(id))),
        _ => Ok(None),
    }
}

fn document(id: &str, number: u64, text_bytes: usize) -> Bytes {
    json!({ "id": id, "n": number, "text": "x".repeat(text_bytes) }).to_string().into()
}

fn number(document: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(document).ok()?["n"].as_u64()
}

/// Takes what has a number.
fn store() -> MemoryDocuments {
    MemoryDocuments::default()
        .with_rule(|document| number(document).map(drop).ok_or_else(|| "it has no number".to_owned()))
}
