//! Queries against OpenSearch: the same likenesses and weights as the embedded index has.

use opensearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{Found, SearchDocument, SearchQuery},
    client::{CallError, Client},
};

#[derive(Deserialize)]
struct Answer {
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    total: Total,
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Total {
    value: u64,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_source")]
    source: SearchDocument,
}

pub(super) async fn ask(client: &Client, alias: &str, query: &SearchQuery) -> Result<Found, CallError> {
    let answer = client.call(Method::Post, &format!("/{alias}/_search"), Some(body(query))).await?;
    let answer: Answer = serde_json::from_value(answer).map_err(CallError::Unexpected)?;
    Ok(Found {
        total: answer.hits.total.value,
        documents: answer.hits.hits.into_iter().map(|hit| hit.source).collect(),
    })
}

fn body(query: &SearchQuery) -> Value {
    let (must, best) = match &query.text {
        Some(text) => (text_clause(text), json!({ "_score": "desc" })),
        None => (json!({ "match_all": {} }), json!({ "rating": "desc" })),
    };
    json!({
        "query": { "bool": { "must": must, "filter": filters(query), "must_not": { "term": { "deleted": true } } } },
        "sort": [best, { "id": "asc" }],
        "from": query.offset,
        "size": query.limit,
        "track_total_hits": true,
    })
}

/// Any word in any text field: as its stem, with a typo, or, for the last word, as a beginning.
fn text_clause(text: &str) -> Value {
    let stemmed = ["full_name", "headline^2", "bio"];
    let plain = ["full_name.plain", "headline.plain^2", "bio.plain"];
    let any = |mut one: Value| {
        one["query"] = json!(text);
        json!({ "multi_match": one })
    };
    json!({ "bool": { "minimum_should_match": 1, "should": [
        any(json!({ "fields": stemmed })),
        any(json!({ "fields": plain, "fuzziness": "AUTO", "boost": 0.3 })),
        any(json!({ "fields": plain, "type": "bool_prefix", "boost": 0.5 })),
    ] } })
}

fn filters(query: &SearchQuery) -> Vec<Value> {
    let mut filters = Vec::new();
    if !query.subjects.is_empty() {
        filters.push(json!({ "terms": { "subjects": query.subjects } }));
    }
    if let Some(format) = query.format {
        filters.push(json!({ "term": { "formats": format.as_str() } }));
    }
    if let Some(location) = &query.location {
        filters.push(json!({ "term": { "location": location } }));
    }
    if let Some(least) = query.min_price {
        filters.push(json!({ "range": { "hourly_rate": { "gte": least.to_number() } } }));
    }
    if let Some(most) = query.max_price {
        filters.push(json!({ "range": { "hourly_rate": { "lte": most.to_number() } } }));
    }
    if let Some(least) = query.min_rating {
        filters.push(json!({ "range": { "rating": { "gte": least.to_number() } } }));
    }
    filters
}
