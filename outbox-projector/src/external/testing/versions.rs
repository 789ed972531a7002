//! Versions: of two writes of one id the higher stays.

use super::{VersionedStoreHarness, Written, stored, write, write_one};

/// A write above what is there replaces it, however far above.
pub async fn a_higher_version_wins<H: VersionedStoreHarness>(harness: &mut H) {
    for version in [1, 2, 1_000_000] {
        assert_eq!(write_one(harness, stored(harness, "a", version)).await, Written::Stored);
        assert_eq!(harness.find("a").await, Some(version));
    }
    assert_eq!(harness.find("b").await, None);
}

/// A write at the version that is there changes nothing, even if it holds something else.
pub async fn an_equal_version_is_stale<H: VersionedStoreHarness>(harness: &mut H) {
    write_one(harness, stored(harness, "a", 5)).await;
    let mut other = stored(harness, "a", 5);
    other.document = Some(harness.document("a", 99, 0));
    assert_eq!(write_one(harness, other).await, Written::Stale);
    assert_eq!(harness.find("a").await, Some(5));
}

/// A write below the version that is there changes nothing.
pub async fn a_lower_version_is_stale<H: VersionedStoreHarness>(harness: &mut H) {
    write_one(harness, stored(harness, "a", 5)).await;
    for version in [4, 1] {
        assert_eq!(write_one(harness, stored(harness, "a", version)).await, Written::Stale);
        assert_eq!(harness.find("a").await, Some(5));
    }
}

/// Versions use 63 bits, which neither a 32-bit integer nor a floating-point number can tell apart.
pub async fn the_largest_versions_are_told_apart<H: VersionedStoreHarness>(harness: &mut H) {
    const LARGEST: u64 = i64::MAX as u64;
    for version in [1 << 33, LARGEST - 1, LARGEST] {
        assert_eq!(write_one(harness, stored(harness, "a", version)).await, Written::Stored, "{version}");
        assert_eq!(write_one(harness, stored(harness, "a", version - 1)).await, Written::Stale, "{version} − 1");
    }
    assert_eq!(harness.find("a").await, Some(LARGEST));
}

/// Each answer is about the write at its place.
pub async fn answers_stand_in_the_order_of_the_writes<H: VersionedStoreHarness>(harness: &mut H) {
    let ids = ["d", "a", "c", "b", "e"];
    let first: Vec<_> = ["c", "d"].iter().map(|id| stored(harness, id, 10)).collect();
    write(harness, &first).await;
    let all: Vec<_> = ids.iter().map(|id| stored(harness, id, 7)).collect();
    let expected = ids.map(|id| if ["c", "d"].contains(&id) { Written::Stale } else { Written::Stored });
    assert_eq!(write(harness, &all).await, expected);
    assert_eq!(write(harness, &all).await, [(); 5].map(|()| Written::Stale));
}

/// The same writes come to the same whatever order they stand in.
pub async fn the_order_of_a_request_does_not_matter<H: VersionedStoreHarness>(harness: &mut H) {
    let ids = |prefix: &str| (0..6).map(|n| format!("{prefix}-{n}")).collect::<Vec<_>>();
    for (prefix, backwards) in [("forwards", false), ("backwards", true)] {
        for version in [3, 1, 2] {
            let mut writes: Vec<_> = ids(prefix).iter().map(|id| stored(harness, id, version)).collect();
            if backwards {
                writes.reverse();
            }
            let expected = if version == 3 { Written::Stored } else { Written::Stale };
            assert_eq!(write(harness, &writes).await, vec![expected; 6], "{prefix}, version {version}");
        }
        for id in ids(prefix) {
            assert_eq!(harness.find(&id).await, Some(3), "{id}");
        }
    }
}
