//! Deletions: they are versions too, and are remembered.

use super::{VersionedStoreHarness, Written, deleted, stored, write_one};

/// After a deletion neither an older update nor the deletion again has an effect.
pub async fn a_late_update_does_not_resurrect<H: VersionedStoreHarness>(harness: &mut H) {
    write_one(harness, stored(harness, "a", 5)).await;
    write_one(harness, stored(harness, "b", 5)).await;
    assert_eq!(write_one(harness, deleted("a", 9)).await, Written::Stored);
    assert_eq!(harness.find("a").await, None);
    for late in [stored(harness, "a", 8), stored(harness, "a", 9), deleted("a", 9), deleted("a", 2)] {
        assert_eq!(write_one(harness, late).await, Written::Stale);
    }
    assert_eq!(harness.find("a").await, None, "the deletion has won");
    assert_eq!(harness.find("b").await, Some(5));
}

/// Nor has it after the store was started again: versions of deleted documents are kept like those of others.
pub async fn a_late_update_does_not_resurrect_after_a_restart<H: VersionedStoreHarness>(harness: &mut H) {
    write_one(harness, stored(harness, "kept", 5)).await;
    write_one(harness, stored(harness, "gone", 5)).await;
    write_one(harness, deleted("gone", 9)).await;
    write_one(harness, deleted("never", 9)).await;
    if !harness.restart().await {
        eprintln!(
            "skipped: a_late_update_does_not_resurrect_after_a_restart, since the harness cannot restart the store"
        );
        return;
    }
    for id in ["gone", "never"] {
        assert_eq!(write_one(harness, stored(harness, id, 8)).await, Written::Stale, "{id}");
        assert_eq!(harness.find(id).await, None, "{id} stays deleted");
    }
    assert_eq!(harness.find("kept").await, Some(5));
    assert_eq!(write_one(harness, stored(harness, "kept", 4)).await, Written::Stale);
    assert_eq!(write_one(harness, stored(harness, "gone", 10)).await, Written::Stored);
    assert_eq!(harness.find("gone").await, Some(10));
}

/// Deleting what is not there is no fault, and is remembered: its update may be on the way.
pub async fn a_deletion_of_what_never_was_is_remembered<H: VersionedStoreHarness>(harness: &mut H) {
    assert_eq!(write_one(harness, deleted("a", 5)).await, Written::Stored);
    assert_eq!(write_one(harness, stored(harness, "a", 4)).await, Written::Stale);
    assert_eq!(harness.find("a").await, None);
}

/// A write above a deletion counts: the document is there again.
pub async fn an_update_above_a_deletion_revives<H: VersionedStoreHarness>(harness: &mut H) {
    write_one(harness, stored(harness, "a", 1)).await;
    write_one(harness, deleted("a", 2)).await;
    assert_eq!(write_one(harness, stored(harness, "a", 3)).await, Written::Stored);
    assert_eq!(harness.find("a").await, Some(3));
    assert_eq!(write_one(harness, deleted("a", 4)).await, Written::Stored);
    assert_eq!(harness.find("a").await, None);
}
