//! Documents: bad ones, large ones, and ids of every kind.

use super::{VersionedStoreHarness, VersionedWrite, Written, stored, write, write_one};

/// A document that the store refuses is told by itself; the others of its request are stored.
pub async fn a_refused_document_keeps_no_other_out<H: VersionedStoreHarness>(harness: &mut H) {
    let Some(refused) = harness.refused_document() else {
        eprintln!("skipped: a_refused_document_keeps_no_other_out, since the harness has no document that is refused");
        return;
    };
    let bad = VersionedWrite { id: "bad".to_owned(), version: 1, document: Some(refused) };
    let writes = [stored(harness, "before", 1), bad.clone(), stored(harness, "behind", 1)];
    for expected in [Written::Stored, Written::Stale] {
        let written = write(harness, &writes).await;
        assert_eq!((&written[0], &written[2]), (&expected, &expected));
        let Written::Refused(reason) = &written[1] else { panic!("not refused but {:?}", written[1]) };
        assert!(!reason.is_empty(), "it says why");
    }
    assert!(matches!(write_one(harness, bad).await, Written::Refused(_)), "alone too");
    assert_eq!(harness.find("before").await, Some(1));
    assert_eq!(harness.find("behind").await, Some(1));
    assert_eq!(write_one(harness, stored(harness, "bad", 1)).await, Written::Stored, "it left no version behind");
}

/// A document of 900 kB, about what a message can hold, is kept like any other.
pub async fn large_documents_are_kept_whole<H: VersionedStoreHarness>(harness: &mut H) {
    let large = |version| {
        let document = harness.document("large", version, 900_000);
        VersionedWrite { id: "large".to_owned(), version, document: Some(document) }
    };
    assert!(large(1).document.is_some_and(|document| document.len() >= 900_000), "the harness makes a large document");
    let writes = [stored(harness, "before", 1), large(1), stored(harness, "behind", 1)];
    assert_eq!(write(harness, &writes).await, [(); 3].map(|()| Written::Stored));
    assert_eq!(write_one(harness, large(2)).await, Written::Stored);
    assert_eq!(write_one(harness, large(1)).await, Written::Stale);
    assert_eq!(harness.find("large").await, Some(2));
    assert_eq!(harness.find("behind").await, Some(1));
}

/// Ids are compared byte by byte, whatever is in them, up to the 255 bytes that an aggregate's id can have.
pub async fn ids_are_kept_apart_whatever_they_are<H: VersionedStoreHarness>(harness: &mut H) {
    let long = "я".repeat(127);
    let longer = format!("{}abc", "я".repeat(126));
    let ids = [
        "7",
        "07",
        "a",
        "A",
        " a",
        "a ",
        "a b",
        "a/b",
        "a\\b",
        "\"a\"",
        "a,b",
        "a:b",
        "_a",
        "%61",
        "a?b#c",
        "{}",
        "é",
        "e\u{301}",
        "Иван",
        "иван",
        "日本語",
        "🦀",
        "null",
        &long,
        &longer,
    ];
    let writes: Vec<_> = ids.iter().zip(1..).map(|(id, version)| stored(harness, id, version)).collect();
    assert_eq!(write(harness, &writes).await, vec![Written::Stored; ids.len()]);
    for (id, version) in ids.iter().zip(1..) {
        assert_eq!(harness.find(id).await, Some(version), "{id:?}");
    }
    assert_eq!(write(harness, &writes).await, vec![Written::Stale; ids.len()]);
}
