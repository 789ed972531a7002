//! What a positioned projection says of its store's answers.

use async_trait::async_trait;
use outbox_core::{
    error::chain,
    event::{NewEvent, ReceivedEvent},
    projection::{Projection, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
    testing::Sequencer,
};
use outbox_projector::external::{
    Change, Commit, CommitError, PositionedProjection, PositionedStore, StoreError, StoreErrorKind,
};

use super::{change, store};
use crate::support::counted;

#[tokio::test]
async fn a_refused_document_rejects_its_event_and_nothing_is_there() {
    let log = Sequencer::default();
    let documents = store();
    let with_refused = |received: &ReceivedEvent| match received.event.event_type.as_str() {
        "Refused" => Ok(Some(Change::store("refused", "{}"))),
        _ => change(received),
    };
    let projection = PositionedProjection::new("test", documents.clone(), with_refused);
    let ignored = log.receive(NewEvent::tombstone("Suite", "a", "Unheard").expect("event"));
    let refused = log.receive(NewEvent::tombstone("Suite", "a", "Refused").expect("event"));
    let mut events = vec![ignored, log.receive(counted("a", 1)), refused, log.receive(counted("b", 2))];
    let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
    let error = projection.apply(Step::new(&partition, None, &to, &events)).await.expect_err("refused");
    assert_eq!((error.kind(), error.event()), (ProjectionErrorKind::Rejected, Some(2)));
    assert!(chain(&error).contains("it has no number"), "{}", chain(&error));
    assert!(documents.is_empty());
    assert_eq!(projection.position(&partition).await.expect("position"), None);

    events.remove(2);
    let applied = projection.apply(Step::new(&partition, None, &to, &events)).await.expect("applied");
    assert_eq!((applied.applied, applied.ignored), (2, 1));
    assert_eq!(projection.position(&partition).await.expect("position"), Some(to));
}

/// A disk that is full.
struct Full;

#[async_trait]
impl PositionedStore for Full {
    async fn position(&self, _: &Partition) -> Result<Option<SourcePosition>, StoreError> {
        Err(full())
    }

    async fn commit(&self, _: Commit) -> Result<Vec<bool>, CommitError> {
        Err(full().into())
    }
}

fn full() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the disk is full")
}

#[tokio::test]
async fn no_event_is_blamed_for_what_the_store_says_of_a_commit() {
    let projection = PositionedProjection::new("test", Full, change);
    let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
    let events = [Sequencer::default().receive(counted("a", 1))];
    let applied = projection.apply(Step::new(&partition, None, &to, &events)).await.expect_err("full");
    let position = projection.position(&partition).await.expect_err("full");
    for error in [applied, position] {
        assert_eq!((error.kind(), error.event()), (ProjectionErrorKind::Unavailable, None));
        assert!(outbox_core::error::chain(&error).ends_with("the disk is full"));
    }
}
