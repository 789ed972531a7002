//! Against a real OpenSearch; each test has an index of its own.

use opensearch::http::Method;
use outbox_core::{
    error::chain,
    event::ReceivedEvent,
    projection::{Applied, Projection, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};
use outbox_projector::{
    external::{StoreError, StoreErrorKind},
    rebuild::{Generations as _, Stage},
};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::{
    http::QueryPairs,
    search::change::tests::{document, received},
    tutors::{TUTOR_CREATED, TUTOR_DELETED, TUTOR_UPDATED},
};

const LOG: LogId = LogId(Uuid::from_u128(1));

async fn index(alias: &str, log: LogId) -> OpenSearchIndex {
    OpenSearchIndex::new(&test_services::opensearch_url().await, alias, log).expect("address")
}

async fn fresh() -> OpenSearchIndex {
    index(&test_services::unique("tutors"), LOG).await
}

async fn apply(index: &OpenSearchIndex, events: &[ReceivedEvent]) -> Result<Applied, ProjectionError> {
    let to = SourcePosition::from_text("0");
    let applied = live(index).apply(Step::new(&Partition::new("p"), None, &to, events)).await;
    let refresh = format!("/{}/_refresh", index.0.alias);
    index.0.client.call(Method::Post, &refresh, None).await.expect("refreshed");
    applied
}

fn live(index: &OpenSearchIndex) -> Arc<dyn Projection> {
    index.projection(Generation::FIRST, Stage::Live)
}

async fn ids(index: &OpenSearchIndex, query: &str) -> Vec<i64> {
    let query = SearchQuery::parse(&QueryPairs::parse(query)).expect("query");
    let found = index.search(&query).await.expect("found");
    assert_eq!(found.total as usize, found.documents.len(), "one page in these tests");
    found.documents.iter().map(|d| d.id).collect()
}

fn upsert(position: u64, id: i64, name: &str) -> ReceivedEvent {
    let event_type = if position == 1 { TUTOR_CREATED } else { TUTOR_UPDATED };
    received(position, id, event_type, &serde_json::to_value(document(id, name)).expect("JSON"))
}

fn deleted(position: u64, id: i64) -> ReceivedEvent {
    received(position, id, TUTOR_DELETED, &json!({ "id": id }))
}

#[tokio::test]
async fn documents_are_found_as_they_were_sent_and_late_duplicates_change_nothing() {
    let it = fresh().await;
    // Beyond 32 bits.
    let id = 1 << 40;
    let applied = apply(&it, &[upsert(1, id, "Anna Petrova"), upsert(2, id, "Berta Petrova")]).await.expect("applied");
    assert_eq!(applied.applied, 2);
    let query = SearchQuery::parse(&QueryPairs::parse("q=petorva")).expect("query");
    assert_eq!(it.search(&query).await.expect("found").documents, [document(id, "Berta Petrova")]);
    let late = apply(&it, &[upsert(1, id, "Anna Petrova")]).await.expect("applied");
    assert_eq!((late.applied, late.duplicates), (0, 1));
    assert_eq!(ids(&it, "q=berta").await, [id]);
}

#[tokio::test]
async fn a_deletion_wins_over_whatever_comes_late() {
    let it = fresh().await;
    apply(&it, &[upsert(1, 7, "Anna"), deleted(3, 7), deleted(4, 99)]).await.expect("applied");
    assert!(ids(&it, "").await.is_empty());
    let late = apply(&it, &[upsert(2, 7, "Anna")]).await.expect("applied");
    assert_eq!((late.applied, late.duplicates), (0, 1));
    assert!(ids(&it, "").await.is_empty());
}

#[tokio::test]
async fn texts_and_filters_work_as_in_the_embedded_index() {
    let it = fresh().await;
    let events = [upsert(1, 1, "Anna Petrova"), upsert(2, 2, "Борис Иванов")];
    apply(&it, &events).await.expect("applied");
    for query in ["q=teachers", "q=matematics", "q=mathem"] {
        assert_eq!(ids(&it, query).await, [1, 2], "{query}");
    }
    assert_eq!(ids(&it, "q=ИВАНОВ").await, [2]);
    assert!(ids(&it, "q=chemistry").await.is_empty());
    assert_eq!(ids(&it, "subjects=Nothing&subjects=Mathematics&min_price=1500.50&max_price=1500.5").await, [1, 2]);
    assert_eq!(ids(&it, "format=online&location=Kazan&min_rating=4.5").await, [1, 2]);
    for query in ["min_price=1500.51", "format=offline", "location=kazan", "min_rating=4.51"] {
        assert!(ids(&it, query).await.is_empty(), "{query}");
    }
}

#[tokio::test]
async fn what_the_mapping_refuses_is_rejected_and_said() {
    let it = fresh().await;
    let mut odd = serde_json::to_value(document(1, "Anna")).expect("JSON");
    odd["created_at"] = json!("yesterday");
    let error = apply(&it, &[received(1, 1, TUTOR_CREATED, &odd)]).await.expect_err("rejected");
    assert_eq!(error.kind(), ProjectionErrorKind::Rejected);
    assert!(chain(&error).contains("created_at"), "{}", chain(&error));
    assert!(!error.to_string().contains("yesterday"), "a payload is not for the log: {error}");
}

#[tokio::test]
async fn an_index_of_another_log_is_refused() {
    let alias = test_services::unique("tutors");
    index(&alias, LOG).await.prepare().await.expect("made");
    index(&alias, LOG).await.prepare().await.expect("the same");
    let error = index(&alias, LogId(Uuid::from_u128(2))).await.prepare().await.expect_err("another log");
    assert!(!error.is_away() && error.to_string().contains("--search-index"), "{error}");
}

#[test]
fn what_the_whole_request_is_refused_for_decides_what_is_tried_again() {
    let status = |status| CallError::Status { status, reason: String::new() };
    for (error, kind) in [
        (status(413), StoreErrorKind::TooLarge),
        (status(429), StoreErrorKind::Unavailable),
        (status(404), StoreErrorKind::Unavailable),
        (status(503), StoreErrorKind::Unavailable),
        (status(401), StoreErrorKind::Refused),
        (CallError::AnotherLog { alias: String::new(), of: String::new() }, StoreErrorKind::Refused),
    ] {
        assert_eq!(StoreError::from(error).kind(), kind);
    }
}

#[tokio::test]
async fn away_is_said_and_passes() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address");
    let it = OpenSearchIndex::new(&format!("http://{nobody}"), "tutors", LOG).expect("address");
    let to = SourcePosition::from_text("0");
    let events = [upsert(1, 1, "Anna")];
    let partition = Partition::new("p");
    let step = Step::new(&partition, None, &to, &events);
    assert_eq!(live(&it).apply(step).await.expect_err("away").kind(), ProjectionErrorKind::Unavailable);
    let query = SearchQuery::parse(&QueryPairs::default()).expect("query");
    assert!(matches!(it.search(&query).await, Err(SearchError::Away(_))));
}
