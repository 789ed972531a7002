//! What a versioned projection makes of a store that takes not everything, or not at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use outbox_core::{
    error::chain,
    event::{NewEvent, ReceivedEvent},
    projection::{Applied, Projection, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
    testing::Sequencer,
};
use outbox_projector::external::{MemoryDocuments, StoreErrorKind, VersionedProjection, VersionedProjectionBuilder};
use serde_json::json;

use super::{change, faulty::Faulty, number};
use crate::support::counted;

type Change = fn(&ReceivedEvent) -> Result<Option<outbox_projector::external::Change>, outbox_core::error::BoxError>;

fn projection(store: &Faulty) -> VersionedProjectionBuilder<Faulty, Change> {
    VersionedProjection::builder("test", store.clone(), change as Change)
}

async fn apply(projection: &impl Projection, events: &[ReceivedEvent]) -> Result<Applied, ProjectionError> {
    let to = SourcePosition::from_text("1");
    projection.apply(Step::new(&Partition::new("p"), None, &to, events)).await
}

fn events(log: &Sequencer, keys: &[&str]) -> Vec<ReceivedEvent> {
    keys.iter().zip(0..).map(|(key, n)| log.receive(counted(key, n))).collect()
}

fn ids(requests: &[&[&str]]) -> Vec<Vec<String>> {
    requests.iter().map(|ids| ids.iter().map(|id| format!("Suite/{id}")).collect()).collect()
}

#[tokio::test]
async fn requests_end_at_so_many_documents_and_bytes() {
    let (store, log) = (Faulty::new(), Sequencer::default());
    let by_count = projection(&store).bulk_writes(2).build();
    let applied = apply(&by_count, &events(&log, &["a", "b", "a", "c"])).await.expect("applied");
    assert_eq!(applied.applied, 4);
    assert_eq!(store.requests(), ids(&[&["a", "b"], &["c"]]), "of a document only the newest change");
    // Two of them have 2 · (7 + 31) bytes.
    let by_bytes = projection(&store).bulk_bytes(100).build();
    apply(&by_bytes, &events(&log, &["a", "b", "c"])).await.expect("applied");
    assert_eq!(store.requests(), ids(&[&["a", "b"], &["c"]]));
    let one_by_one = projection(&store).bulk_bytes(0).bulk_writes(0).build();
    apply(&one_by_one, &events(&log, &["a", "b"])).await.expect("applied");
    assert_eq!(store.requests(), ids(&[&["a"], &["b"]]));
}

#[tokio::test]
async fn a_request_that_is_too_large_is_halved_and_a_document_that_is_is_rejected() {
    let (store, log) = (Faulty::new(), Sequencer::default());
    store.take_at_most(100);
    let projection = projection(&store).build();
    apply(&projection, &events(&log, &["a", "b", "c", "d", "e"])).await.expect("applied");
    assert_eq!(store.requests(), ids(&[&["a", "b", "c", "d", "e"], &["a", "b"], &["c", "d"], &["e"]]));

    let wide = "x".repeat(100);
    let mut events = events(&log, &["a", &wide, "c", "d"]);
    let error = apply(&projection, &events).await.expect_err("too large");
    assert_eq!((error.kind(), error.event()), (ProjectionErrorKind::Rejected, Some(1)));
    assert!(chain(&error).contains("more than it takes"), "{error}");
    events.remove(1);
    let applied = apply(&projection, &events).await.expect("applied");
    assert_eq!((applied.applied, applied.duplicates), (3, 0), "they were stored by the step that failed");
}

#[tokio::test(start_paused = true)]
async fn what_the_store_is_too_busy_for_is_sent_again_alone() {
    let (store, log) = (Faulty::new(), Sequencer::default());
    store.busy_for("Suite/b", 4);
    store.busy_for("Suite/c", 1);
    let projection = projection(&store).build();
    let applied = apply(&projection, &events(&log, &["a", "b", "c"])).await.expect("applied");
    assert_eq!(applied.applied, 3);
    assert_eq!(store.requests(), ids(&[&["a", "b", "c"], &["b", "c"], &["b"], &["b"], &["b"]]));
    assert_eq!(store.documents.len(), 3);

    store.busy_for("Suite/b", 5);
    let events = events(&log, &["a", "b", "a"]);
    let error = apply(&projection, &events).await.expect_err("busy for too long");
    assert_eq!((error.kind(), error.event()), (ProjectionErrorKind::Unavailable, None));
    assert!(chain(&error).contains("on cue"), "{error}");
    assert_eq!(store.requests().len(), 5);
    let applied = apply(&projection, &events).await.expect("applied");
    assert_eq!((applied.applied, applied.duplicates), (3, 0), "also what the failed step stored");
    let applied = apply(&projection, &events).await.expect("applied");
    assert_eq!((applied.applied, applied.duplicates), (0, 3), "once");
}

#[tokio::test]
async fn a_refused_document_rejects_its_event_and_no_other() {
    let (store, log) = (Faulty::new(), Sequencer::default());
    let refused = |key: &str| {
        let event = NewEvent::json("Suite", key, "Refused", &json!({})).expect("event");
        log.receive(event)
    };
    let with_refused = |received: &ReceivedEvent| match received.event.event_type.as_str() {
        "Refused" => {
            let id = format!("Suite/{}", received.event.message_key());
            Ok(Some(outbox_projector::external::Change::store(id, "{}")))
        }
        _ => change(received),
    };
    let projection = VersionedProjection::builder("test", store.clone(), with_refused).build();
    let counted = |key: &str| log.receive(counted(key, 7));
    let mut events = vec![counted("a"), counted("b"), refused("b"), refused("c"), counted("d")];
    for index in [2, 2] {
        let error = apply(&projection, &events).await.expect_err("refused");
        assert_eq!((error.kind(), error.event()), (ProjectionErrorKind::Rejected, Some(index)));
        assert!(chain(&error).contains("it has no number"), "{}", chain(&error));
        events.remove(index);
    }
    let applied = apply(&projection, &events).await.expect("applied");
    assert_eq!((applied.applied, applied.duplicates), (3, 0));
    for id in ["a", "b", "d"] {
        assert_eq!(store.documents.get(&format!("Suite/{id}")).as_deref().and_then(number), Some(7), "{id}");
    }
    assert_eq!(store.documents.version("Suite/c"), None);
}

/// A store that refuses numbers from 100 on, until it is mended.
fn refusing() -> (Faulty, Arc<AtomicBool>) {
    let mended = Arc::new(AtomicBool::new(false));
    let mut store = Faulty::new();
    store.documents = MemoryDocuments::default().with_rule({
        let mended = mended.clone();
        move |document| {
            let refused = number(document).is_none_or(|number| number >= 100) && !mended.load(Ordering::SeqCst);
            if refused { Err("it is too high".to_owned()) } else { Ok(()) }
        }
    });
    (store, mended)
}

#[tokio::test]
async fn however_many_documents_of_a_step_are_refused_each_is_sent_once() {
    let ((store, _), log) = (refusing(), Sequencer::default());
    let projection = projection(&store).build();
    let known = [log.receive(counted("known", 1))];
    apply(&projection, &known).await.expect("applied");
    assert_eq!(store.requests(), ids(&[&["known"]]));

    let mut events = known.to_vec();
    events.extend(
        [("a", 1), ("b", 2), ("b", 102), ("c", 103), ("d", 4), ("e", 105)].map(|(key, n)| log.receive(counted(key, n))),
    );
    for (index, requests) in [(3, ids(&[&["known", "a", "b", "c", "d", "e"]])), (3, ids(&[&["b"]])), (4, ids(&[]))] {
        let error = apply(&projection, &events).await.expect_err("refused");
        assert_eq!((error.kind(), error.event()), (ProjectionErrorKind::Rejected, Some(index)));
        assert!(chain(&error).contains("it is too high"), "{}", chain(&error));
        assert_eq!(store.requests(), requests, "without the event that was refused, its older change counts");
        events.remove(index);
    }
    let applied = apply(&projection, &events).await.expect("applied");
    assert_eq!((applied.applied, applied.duplicates), (3, 1), "counted as if it had gone well at once");
    assert_eq!(store.requests(), ids(&[]));
    let numbers =
        ["a", "b", "c", "d", "e"].map(|key| store.documents.get(&format!("Suite/{key}")).as_deref().and_then(number));
    assert_eq!(numbers, [Some(1), Some(2), None, Some(4), None]);
    apply(&projection, &events).await.expect("applied");
    assert_eq!(store.requests(), ids(&[&["known", "a", "b", "d"]]), "of a step that went well nothing is remembered");
}

#[tokio::test]
async fn a_refused_document_whose_event_is_not_given_up_is_sent_again() {
    let ((store, mended), log) = (refusing(), Sequencer::default());
    let projection = projection(&store).build();
    let events = [("a", 101), ("b", 2), ("c", 103)].map(|(key, n)| log.receive(counted(key, n)));
    for _ in 0..2 {
        let error = apply(&projection, &events).await.expect_err("refused");
        assert_eq!(error.event(), Some(0));
        assert_eq!(store.requests(), ids(&[&["a", "b", "c"]]));
    }
    mended.store(true, Ordering::SeqCst);
    let applied = apply(&projection, &events).await.expect("applied");
    assert_eq!((applied.applied, applied.duplicates), (3, 0));
}

#[tokio::test]
async fn what_was_refused_in_a_step_says_nothing_of_another() {
    let ((store, mended), log) = (refusing(), Sequencer::default());
    let projection = projection(&store).build();
    let events = [("a", 101), ("b", 102)].map(|(key, n)| log.receive(counted(key, n)));
    apply(&projection, &events).await.expect_err("refused");
    mended.store(true, Ordering::SeqCst);
    let (partition, to) = (Partition::new("p"), SourcePosition::from_text("2"));
    let applied = projection.apply(Step::new(&partition, None, &to, &events[1..])).await.expect("applied");
    assert_eq!((applied.applied, store.documents.len()), (1, 1));
}

/// As when the letter of the first could not be kept for long.
#[tokio::test(start_paused = true)]
async fn what_was_refused_long_ago_is_asked_for_again() {
    let ((store, mended), log) = (refusing(), Sequencer::default());
    let projection = projection(&store).build();
    let events = [("a", 101), ("b", 102)].map(|(key, n)| log.receive(counted(key, n)));
    apply(&projection, &events).await.expect_err("refused");
    mended.store(true, Ordering::SeqCst);
    tokio::time::advance(std::time::Duration::from_secs(11)).await;
    let applied = apply(&projection, &events[1..]).await.expect("it is taken now");
    assert_eq!((applied.applied, store.documents.len()), (1, 1));
}

#[tokio::test]
async fn no_event_is_blamed_for_what_the_store_says_of_a_request() {
    let (store, log) = (Faulty::new(), Sequencer::default());
    let projection = projection(&store).bulk_writes(1).build();
    let events = events(&log, &["a", "b"]);
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Refused] {
        store.fail_next(kind);
        let error = apply(&projection, &events).await.expect_err("on cue");
        assert_eq!((error.kind(), error.event()), (ProjectionErrorKind::Unavailable, None), "{kind:?}");
        assert!(chain(&error).ends_with("on cue"), "{error}");
    }
    store.swallow_an_answer();
    let error = apply(&projection, &events).await.expect_err("an answer is missing");
    assert_eq!(error.kind(), ProjectionErrorKind::Unavailable);
    assert!(chain(&error).contains("0 of 1"), "{error}");
    apply(&projection, &events).await.expect("applied");
    assert_eq!(store.documents.len(), 2);
}

#[tokio::test]
async fn a_deletion_counts_and_nothing_late_undoes_it() {
    let (store, log) = (Faulty::new(), Sequencer::default());
    let projection = projection(&store).build();
    let old = log.receive(counted("a", 1));
    let erased = log.receive(NewEvent::tombstone("Suite", "a", "Erased").expect("event"));
    let unknown = log.receive(NewEvent::tombstone("Suite", "a", "Unheard").expect("event"));
    let applied = apply(&projection, &[old.clone(), erased.clone(), unknown]).await.expect("applied");
    assert_eq!((applied.applied, applied.ignored), (2, 1));
    let late = apply(&projection, &[old, erased]).await.expect("applied");
    assert_eq!((late.applied, late.duplicates), (0, 2));
    assert!(store.documents.is_empty());
}
