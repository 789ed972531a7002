//! What the suites of stores and of projections need to know of both indexes.

use bytes::Bytes;
use outbox_core::{error::BoxError, event::ReceivedEvent, testing::number_of};
use outbox_projector::external::Change;

use super::{SearchDocument, SearchIndex, SearchQuery, change::tests};

/// A tutor whose place is the id, and who has so many reviews.
pub(super) fn document(id: &str, number: u64, text_bytes: usize) -> Bytes {
    const WORD: &str = "mathematics ";
    let tutor = SearchDocument {
        location: id.to_owned(),
        reviews_count: i64::try_from(number).expect("63 bits"),
        bio: WORD.repeat(text_bytes.div_ceil(WORD.len())),
        ..tests::document(1, "Anna")
    };
    serde_json::to_vec(&tutor).expect("JSON").into()
}

/// The suites' events as such tutors.
pub(super) fn change(received: &ReceivedEvent) -> Result<Option<Change>, BoxError> {
    let event = &received.event;
    if event.event_type.as_str() != "Counted" {
        return Ok(None);
    }
    let id = format!("{}/{}", event.aggregate_type, event.message_key());
    let number = number_of(event).ok_or("it carries no number")?;
    Ok(Some(Change::store(id.clone(), document(&id, number, 0))))
}

/// The number of the tutor that a search finds by this id.
pub(super) async fn find(index: &impl SearchIndex, id: &str) -> Option<u64> {
    let query = SearchQuery {
        text: None,
        subjects: Vec::new(),
        min_price: None,
        max_price: None,
        min_rating: None,
        format: None,
        location: Some(id.to_owned()),
        limit: 2,
        offset: 0,
    };
    let mut found = index.search(&query).await.expect("found").documents;
    assert!(found.len() <= 1, "one document of each id");
    found.pop().map(|tutor| tutor.reviews_count as u64)
}
