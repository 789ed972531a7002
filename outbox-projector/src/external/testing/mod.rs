//! The suite of stores of documents.
//!
//! A store's author implements [`VersionedStoreHarness`] and instantiates the suite with one line in a test:
//!
//! ```text
//! outbox_projector::versioned_store_suite!(opensearch, Harness::fresh);
//! ```
//!
//! The first argument names the module that the tests go into, the second is an async function which makes one harness;
//! every case gets its own. A [`PositionedStore`](super::PositionedStore) passes it too, in [`CommitEach`].
//!
//! A case is a plain async function that panics when the promise in its docstring is broken.

#![allow(clippy::missing_panics_doc, reason = "a case panics when its promise is broken: that is its result")]

mod commit_each;
mod concurrency;
mod deletions;
mod documents;
mod random;
mod versions;

use async_trait::async_trait;
use bytes::Bytes;

pub use commit_each::CommitEach;
pub use concurrency::*;
pub use deletions::*;
pub use documents::*;
pub use random::*;
pub use versions::*;

use super::{VersionedStore, VersionedWrite, Written};

/// An empty store, the documents that fit it, and a way to look into it.
#[async_trait]
pub trait VersionedStoreHarness: Send + Sync {
    /// The store.
    type Store: VersionedStore;

    /// The store under test.
    fn store(&self) -> &Self::Store;

    /// A document that the store takes. It carries the id and the number, so that both can be found again, and about so
    /// many bytes of text besides.
    fn document(&self, id: &str, number: u64, text_bytes: usize) -> Bytes;

    /// A document that the store never takes. `None`, as by default: it takes every document.
    fn refused_document(&self) -> Option<Bytes> {
        None
    }

    /// The number in the document of this id, as the application's own queries find it; `None` when they find none.
    /// Everything that was answered before is to be seen.
    async fn find(&self, id: &str) -> Option<u64>;

    /// Ends the store and starts it again on what it keeps. A store with a journal flushes it first: what is replayed
    /// from there would hide that deletions are forgotten. `false`: this harness cannot.
    async fn restart(&mut self) -> bool;

    /// Called after a case that passed. Does nothing by default.
    async fn tear_down(self)
    where
        Self: Sized,
    {
    }
}

/// Makes one test of every case of the suite of [`VersionedStore`]: `versioned_store_suite!(module_name, make_harness)`;
/// see [`testing`](crate::external::testing). The crate that uses it needs `tokio` with `macros` and `rt-multi-thread`
/// among its dev-dependencies.
#[macro_export]
macro_rules! versioned_store_suite {
    ($name:ident, $make_harness:expr $(,)?) => {
        $crate::versioned_store_cases!(
            $name,
            $make_harness,
            [
                a_higher_version_wins,
                an_equal_version_is_stale,
                a_lower_version_is_stale,
                the_largest_versions_are_told_apart,
                answers_stand_in_the_order_of_the_writes,
                the_order_of_a_request_does_not_matter,
                a_late_update_does_not_resurrect,
                a_late_update_does_not_resurrect_after_a_restart,
                a_deletion_of_what_never_was_is_remembered,
                an_update_above_a_deletion_revives,
                a_refused_document_keeps_no_other_out,
                large_documents_are_kept_whole,
                ids_are_kept_apart_whatever_they_are,
                of_concurrent_writers_of_one_id_the_highest_wins,
                random_histories_end_as_the_model_says,
            ]
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! versioned_store_cases {
    ($name:ident, $make_harness:expr, [$($case:ident),* $(,)?]) => {
        mod $name {
            #[allow(unused_imports, clippy::wildcard_imports)]
            use super::*;

            $(
                #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let mut harness = ($make_harness)().await;
                    $crate::external::testing::$case(&mut harness).await;
                    $crate::external::testing::VersionedStoreHarness::tear_down(harness).await;
                }
            )*
        }
    };
}

/// Writes that have to be answered, each with what became of it.
async fn write<H: VersionedStoreHarness>(harness: &H, writes: &[VersionedWrite]) -> Vec<Written> {
    let written = harness.store().write(writes).await.expect("write");
    assert_eq!(written.len(), writes.len(), "one answer for each write");
    written
}

/// One write that has to be answered.
async fn write_one<H: VersionedStoreHarness>(harness: &H, one: VersionedWrite) -> Written {
    write(harness, &[one]).await.remove(0)
}

/// A document whose number is its version.
fn stored<H: VersionedStoreHarness>(harness: &H, id: &str, version: u64) -> VersionedWrite {
    VersionedWrite { id: id.to_owned(), version, document: Some(harness.document(id, version, 0)) }
}

fn deleted(id: &str, version: u64) -> VersionedWrite {
    VersionedWrite { id: id.to_owned(), version, document: None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn the_macro_lists_every_case() {
        let sources = [
            include_str!("concurrency.rs"),
            include_str!("deletions.rs"),
            include_str!("documents.rs"),
            include_str!("random.rs"),
            include_str!("versions.rs"),
        ];
        let cases: BTreeSet<&str> = sources
            .iter()
            .flat_map(|source| source.lines())
            .filter_map(|line| line.strip_prefix("pub async fn ")?.split('<').next())
            .collect();
        let (_, list) = include_str!("mod.rs").split_once("$make_harness,\n            [").expect("the macro's list");
        let (list, _) = list.split_once(']').expect("its end");
        let listed: BTreeSet<&str> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        assert_eq!(cases, listed);
    }
}
