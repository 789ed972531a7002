//! Writers side by side.

use futures_util::future::join_all;

use super::{VersionedStoreHarness, VersionedWrite, Written, deleted, stored, write};

/// Several writers bring versions of one id at the same time, in any order: the highest stays, and each version is stored
/// at most once.
pub async fn of_concurrent_writers_of_one_id_the_highest_wins<H: VersionedStoreHarness>(harness: &mut H) {
    const WRITERS: u64 = 8;
    let harness = &*harness;
    for round in 0..5 {
        let (id, gone) = (format!("a-{round}"), format!("gone-{round}"));
        let bring = |writer: u64| {
            let versions = (0..WRITERS).map(move |n| (writer * 3 + n) % WRITERS + 1);
            let writes: Vec<[VersionedWrite; 2]> = versions
                .map(|version| match version {
                    WRITERS => [stored(harness, &id, version), deleted(&gone, version)],
                    _ => [stored(harness, &id, version), stored(harness, &gone, version)],
                })
                .collect();
            async move {
                let mut times_stored = Vec::new();
                for pair in writes {
                    let version = pair[0].version;
                    times_stored.extend((write(harness, &pair).await[0] == Written::Stored).then_some(version));
                }
                times_stored
            }
        };
        let mut stored: Vec<u64> = join_all((0..WRITERS).map(bring)).await.concat();
        assert_eq!(harness.find(&id).await, Some(WRITERS), "round {round}");
        assert_eq!(harness.find(&gone).await, None, "round {round}: the deletion is the newest");
        let all = stored.len();
        stored.sort_unstable();
        stored.dedup();
        assert_eq!(
            (all, stored.last()),
            (stored.len(), Some(&WRITERS)),
            "round {round}: each version is stored at most once"
        );
    }
}
