//! Random histories, compared with the simplest model there is: of each id the write with the highest version.

use std::collections::BTreeMap;

use proptest::{
    prelude::{Strategy, any},
    prop_assert_eq,
    test_runner::{Config, TestCaseError, TestRunner},
};

use super::{VersionedStore, VersionedStoreHarness, VersionedWrite, Written, deleted, stored};

/// Whatever is written in whatever order and however often, each answer and the end are as the model says.
///
/// Needs the multi-thread runtime that the suite's macro sets up.
#[allow(clippy::unused_async, reason = "every case is an async function; this one blocks, since proptest does")]
pub async fn random_histories_end_as_the_model_says<H: VersionedStoreHarness>(harness: &mut H) {
    let harness = &*harness;
    let config = Config { cases: 16, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let runtime = tokio::runtime::Handle::current();
    let history_number = std::cell::Cell::new(0_u32);
    let outcome = tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&history(), |history| {
            // Histories share a store, so each has ids of its own.
            history_number.set(history_number.get() + 1);
            runtime.block_on(check(harness, &history, history_number.get()))
        })
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// Requests; in each, by id, a version, and whether it deletes. Few ids and versions, so that they meet often.
type History = Vec<BTreeMap<u8, (u64, bool)>>;

fn history() -> impl Strategy<Value = History> {
    let request = proptest::collection::btree_map(0_u8..3, (1_u64..8, any::<bool>()), 1..=3);
    proptest::collection::vec(request, 1..10)
}

async fn check<H: VersionedStoreHarness>(harness: &H, history: &History, number: u32) -> Result<(), TestCaseError> {
    let name = |id: u8| format!("random-{number}-{id}");
    let mut model: BTreeMap<u8, (u64, bool)> = BTreeMap::new();
    for request in history {
        let as_write = |(id, (version, deletes)): (&u8, &(u64, bool))| match deletes {
            true => deleted(&name(*id), *version),
            false => stored(harness, &name(*id), *version),
        };
        let writes: Vec<VersionedWrite> = request.iter().map(as_write).collect();
        let written = harness.store().write(&writes).await;
        let written = written.map_err(|error| TestCaseError::fail(outbox_core::error::chain(&error)))?;
        let mut expected = Vec::new();
        for (id, (version, deletes)) in request {
            let newer = model.get(id).is_none_or(|(known, _)| version > known);
            expected.push(if newer { Written::Stored } else { Written::Stale });
            if newer {
                model.insert(*id, (*version, *deletes));
            }
        }
        prop_assert_eq!(written, expected, "what is above is stored, everything else is stale");
    }
    for (id, (version, deletes)) in model {
        prop_assert_eq!(harness.find(&name(id)).await, (!deletes).then_some(version), "id {}", id);
    }
    Ok(())
}
