//! The index as it should be.

use opensearch::http::Method;
use outbox_core::event::LogId;
use serde_json::{Value, json};

use super::client::{CallError, Client};

/// Finds the index behind the alias, or makes the first one with all its aliases in one request.
pub(super) async fn prepare(
    client: &Client,
    alias: &str,
    first: &str,
    aliases: &Value,
    log: LogId,
) -> Result<(), CallError> {
    let mapping = format!("/{alias}/_mapping");
    match client.call(Method::Get, &mapping, None).await {
        Ok(found) => return check(&found, alias, log),
        Err(missing) if missing.status() == Some(404) => {}
        Err(error) => return Err(error),
    }
    match client.call(Method::Put, &format!("/{first}"), Some(definition(aliases, log))).await {
        Ok(_) => Ok(()),
        Err(refused) if refused.status() == Some(400) => {
            // Another process was quicker, unless the refusal was about something else.
            let found = client.call(Method::Get, &mapping, None).await;
            found.map_err(|_| refused).and_then(|found| check(&found, alias, log))
        }
        Err(error) => Err(error),
    }
}

/// Sequences of two logs cannot be compared: documents of the other one might never be overwritten.
fn check(found: &Value, alias: &str, log: LogId) -> Result<(), CallError> {
    let indexes = found.as_object().into_iter().flat_map(|indexes| indexes.values());
    for index in indexes {
        let of = index["mappings"]["_meta"]["log"].as_str().unwrap_or("an unknown one");
        if of != log.to_string() {
            return Err(CallError::AnotherLog { alias: alias.to_owned(), of: of.to_owned() });
        }
    }
    Ok(())
}

/// An index with these aliases.
pub(super) fn definition(aliases: &Value, log: LogId) -> Value {
    let text = json!({
        "type": "text",
        "analyzer": "english",
        "fields": { "plain": { "type": "text", "analyzer": "plain" } },
    });
    let keyword = json!({ "type": "keyword" });
    let hundredths = json!({ "type": "scaled_float", "scaling_factor": 100 });
    json!({
        "settings": {
            "number_of_shards": 1,
            "number_of_replicas": 0,
            // Events show up in searches this soon, without a refresh for each of them.
            "refresh_interval": "200ms",
            "analysis": {
                "analyzer": {
                    "plain": { "type": "custom", "tokenizer": "standard", "filter": ["lowercase", "stop"] },
                },
            },
        },
        "mappings": {
            "dynamic": "strict",
            "_meta": { "log": log.to_string() },
            "properties": {
                "id": { "type": "long" },
                "slug": keyword,
                "full_name": text,
                "avatar_url": { "type": "keyword", "index": false, "doc_values": false },
                "headline": text,
                "bio": text,
                "subjects": keyword,
                "hourly_rate": hundredths,
                "rating": hundredths,
                "reviews_count": { "type": "long" },
                "is_verified": { "type": "boolean" },
                "location": keyword,
                "formats": keyword,
                "created_at": { "type": "date" },
                "updated_at": { "type": "date" },
                "deleted": { "type": "boolean" },
            },
        },
        "aliases": aliases,
    })
}
