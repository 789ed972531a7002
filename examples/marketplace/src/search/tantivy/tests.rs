use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, Projection, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::{
    http::QueryPairs,
    search::{
        SearchDocument,
        change::tests::{document, received},
    },
    tutors::{TUTOR_CREATED, TUTOR_DELETED, TUTOR_UPDATED},
};

const LOG: LogId = LogId(Uuid::from_u128(1));

struct Fixture {
    index: TantivyIndex,
    directory: TempDir,
    at: Option<SourcePosition>,
}

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::new().expect("directory");
        let index = TantivyIndex::open(&directory.path().join("search"), LOG).expect("index");
        Self { index, directory, at: None }
    }

    fn reopened(self, log: LogId) -> Self {
        let Self { index, directory, .. } = self;
        drop(index);
        let index = TantivyIndex::open(&directory.path().join("search"), log).expect("index");
        Self { index, directory, at: None }
    }

    async fn apply(&mut self, events: &[ReceivedEvent]) -> Applied {
        let to = SourcePosition::from_text(format!("{}+", self.at.as_ref().map_or("", |p| p.as_text())));
        let partition = partition();
        let step = Step::new(&partition, self.at.as_ref(), &to, events);
        let applied = self.index.projection().apply(step).await.expect("applied");
        self.at = Some(to);
        applied
    }

    async fn ids(&self, query: &str) -> Vec<i64> {
        let query = SearchQuery::parse(&QueryPairs::parse(query)).expect("query");
        let found = self.index.search(&query).await.expect("found");
        assert_eq!(found.total as usize, found.documents.len(), "one page in these tests");
        found.documents.iter().map(|d| d.id).collect()
    }
}

fn partition() -> Partition {
    Partition::new("log/test")
}

fn upsert(position: u64, event_type: &str, document: &SearchDocument) -> ReceivedEvent {
    received(position, document.id, event_type, &serde_json::to_value(document).expect("JSON"))
}

fn deleted(position: u64, id: i64) -> ReceivedEvent {
    received(position, id, TUTOR_DELETED, &json!({ "id": id }))
}

#[tokio::test]
async fn effects_and_position_survive_together() {
    let mut it = Fixture::new();
    let anna = document(1, "Anna Petrova");
    it.apply(&[upsert(1, TUTOR_CREATED, &anna)]).await;
    let (position, consumer) = (it.at.clone(), it.index.consumer().expect("name"));
    let it = it.reopened(LOG);
    assert_eq!(it.index.projection().position(&partition()).await.expect("position"), position);
    assert_eq!(it.index.consumer().expect("name"), consumer, "the same index is the same consumer");
    assert_eq!(it.ids("q=petrova").await, [1]);
    let query = SearchQuery::parse(&QueryPairs::parse("q=petrova")).expect("query");
    assert_eq!(it.index.search(&query).await.expect("found").documents, [anna]);
}

#[tokio::test]
async fn an_index_of_another_log_or_without_a_label_is_begun_anew() {
    let mut it = Fixture::new();
    it.apply(&[upsert(1, TUTOR_CREATED, &document(1, "Anna"))]).await;
    let consumer = it.index.consumer().expect("name");
    let it = it.reopened(LogId(Uuid::from_u128(2)));
    assert_eq!(it.index.projection().position(&partition()).await.expect("position"), None);
    assert_ne!(it.index.consumer().expect("name"), consumer, "it begins at the log's beginning");
    assert!(it.ids("").await.is_empty());
    std::fs::write(it.directory.path().join("search/label.json"), "{").expect("write");
    let consumer = it.index.consumer().expect("name");
    assert_ne!(it.reopened(LogId(Uuid::from_u128(2))).index.consumer().expect("name"), consumer);
}

#[tokio::test]
async fn a_moved_position_is_a_conflict_without_effect() {
    let mut it = Fixture::new();
    it.apply(&[upsert(1, TUTOR_CREATED, &document(1, "Anna"))]).await;
    let to = SourcePosition::from_text("elsewhere");
    let events = [upsert(2, TUTOR_CREATED, &document(2, "Boris"))];
    let partition = partition();
    let stale = Step::new(&partition, None, &to, &events);
    let error = it.index.projection().apply(stale).await.expect_err("conflict");
    assert_eq!(error.kind(), ProjectionErrorKind::Conflict);
    assert_eq!(it.ids("").await, [1]);
    assert_eq!(it.index.projection().position(&partition).await.expect("position"), it.at);
}

#[tokio::test]
async fn late_duplicates_change_nothing_and_revive_nothing() {
    let mut it = Fixture::new();
    let (old, new) = (document(1, "Anna"), document(1, "Berta"));
    it.apply(&[upsert(1, TUTOR_CREATED, &old), upsert(2, TUTOR_UPDATED, &new)]).await;
    let applied = it.apply(&[upsert(1, TUTOR_CREATED, &old), upsert(2, TUTOR_UPDATED, &new)]).await;
    assert_eq!((applied.applied, applied.duplicates), (0, 2));
    assert_eq!(it.ids("q=berta").await, [1]);
    it.apply(&[deleted(3, 1)]).await;
    assert!(it.ids("").await.is_empty());
    let applied = it.apply(&[upsert(2, TUTOR_UPDATED, &new), deleted(4, 99)]).await;
    assert_eq!((applied.applied, applied.duplicates), (1, 1), "deleting the unknown is no fault");
    assert!(it.ids("").await.is_empty(), "the deletion has won");
}

#[tokio::test]
async fn a_rejected_event_leaves_no_effect_of_its_step() {
    let mut it = Fixture::new();
    it.apply(&[]).await;
    let events = [upsert(1, TUTOR_CREATED, &document(1, "Anna")), received(2, 2, TUTOR_CREATED, &json!({"id": 2}))];
    let to = SourcePosition::from_text("next");
    let partition = partition();
    let step = Step::new(&partition, it.at.as_ref(), &to, &events);
    assert_eq!(it.index.projection().apply(step).await.expect_err("rejected").kind(), ProjectionErrorKind::Rejected);
    assert!(it.ids("").await.is_empty());
}

#[tokio::test]
async fn texts_are_found_by_stem_typo_and_beginning() {
    let mut it = Fixture::new();
    let mut anna = document(1, "Anna Petrova");
    anna.headline = "Patient teacher of mathematics".to_owned();
    let mut boris = document(2, "Борис Иванов");
    boris.headline = "Piano for beginners".to_owned();
    boris.bio = "Scales and songs.".to_owned();
    it.apply(&[upsert(1, TUTOR_CREATED, &anna), upsert(2, TUTOR_CREATED, &boris)]).await;
    for (query, found) in [
        ("q=teachers", 1),      // stem
        ("q=matematics", 1),    // a letter left out
        ("q=petorva", 1),       // two swapped
        ("q=mathem", 1),        // beginning
        ("q=beginner+pian", 2), // the last word's beginning
        ("q=ИВАНОВ", 2),        // case
        ("q=борс", 2),          // typo, not Latin
    ] {
        assert_eq!(it.ids(query).await, [found], "{query}");
    }
    assert!(it.ids("q=chemistry").await.is_empty());
    assert!(it.ids("q=the").await.is_empty(), "stop words find nothing");
}

#[tokio::test]
async fn the_headline_weighs_double() {
    let mut it = Fixture::new();
    let (mut in_bio, mut in_headline) = (document(1, "Anna"), document(2, "Boris"));
    in_bio.headline = "Tutor one two".to_owned();
    in_bio.bio = "About chess mostly here".to_owned();
    in_headline.headline = "About chess mostly here".to_owned();
    in_headline.bio = "Tutor one two".to_owned();
    it.apply(&[upsert(1, TUTOR_CREATED, &in_bio), upsert(2, TUTOR_CREATED, &in_headline)]).await;
    assert_eq!(it.ids("q=chess").await, [2, 1]);
}

#[tokio::test]
async fn filters_combine_and_ties_are_broken_by_id() {
    let mut it = Fixture::new();
    let mut events = Vec::new();
    for id in (1..=6).rev() {
        let mut tutor = document(id, "Same Name");
        tutor.rating = 4.0;
        tutor.hourly_rate = id as f64 * 100.0;
        tutor.subjects = vec![if id % 2 == 0 { "Maths" } else { "Chess" }.to_owned(), "All".to_owned()];
        tutor.location = if id <= 3 { "Kazan" } else { "New York" }.to_owned();
        tutor.formats = vec![if id == 6 { "offline" } else { "online" }.to_owned()];
        events.push(upsert(10 + id as u64, TUTOR_CREATED, &tutor));
    }
    it.apply(&events).await;
    for (query, expected) in [
        ("", vec![1, 2, 3, 4, 5, 6]),
        ("q=same", vec![1, 2, 3, 4, 5, 6]),
        ("subjects=Maths&subjects=Nothing", vec![2, 4, 6]),
        ("subjects=All&min_price=200&max_price=400", vec![2, 3, 4]),
        ("min_price=200.01&location=New+York", vec![4, 5, 6]),
        ("q=same&format=offline", vec![6]),
        ("min_rating=4", vec![1, 2, 3, 4, 5, 6]),
        ("min_rating=4.01", vec![]),
        ("location=kazan", vec![]),
    ] {
        assert_eq!(it.ids(query).await, expected, "{query}");
    }
    let second = SearchQuery::parse(&QueryPairs::parse("q=name&limit=2&offset=2")).expect("query");
    let found = it.index.search(&second).await.expect("found");
    assert_eq!(found.total, 6);
    assert_eq!(found.documents.iter().map(|d| d.id).collect::<Vec<_>>(), [3, 4]);
}
