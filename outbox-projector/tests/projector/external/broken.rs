//! Stores that break a promise on purpose, and the case that catches each: a suite that lets them pass is worth nothing.
//! Without its flaw the same store passes, so it is the flaw that is caught.

use std::{collections::HashMap, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use outbox_projector::external::{
    StoreError, VersionedStore, VersionedWrite, Written,
    testing::{self as suite, VersionedStoreHarness},
};

use super::{document, number};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// Whatever comes is stored.
    AcceptsStale,
    /// What comes again is stored again.
    AcceptsEqual,
    /// Whatever comes is stored once, and never replaced.
    KeepsTheFirst,
    /// A deletion removes the document, and its version with it.
    ForgetsDeletions,
    /// So does a restart with what was deleted.
    ForgetsDeletionsAtRestart,
    /// A deleted document is never there again.
    DeletesForEver,
    /// What is not there is not deleted.
    DeletesOnlyWhatIsThere,
    /// Queries find tombstones too.
    ShowsTombstones,
    /// One bad document, and none is stored.
    AllOrNothing,
    /// A refused document leaves its version behind.
    RemembersTheRefused,
    /// Answers stand in the order of the ids.
    AnswersById,
    /// Versions are floating-point numbers.
    RoundsVersions,
    /// Versions are 32-bit integers.
    CutsVersions,
    /// Versions are compared first and written later.
    ChecksThenWrites,
    /// Letters' case makes no difference to an id.
    FoldsIds,
    /// The beginning and the end of an id do not count if they are blank.
    TrimsIds,
    /// Documents end after 64 KiB.
    CutsDocuments,
}

struct Broken {
    flaw: Flaw,
    kept: Mutex<HashMap<String, (u64, Option<Bytes>)>>,
}

impl Broken {
    fn id(&self, id: &str) -> String {
        match self.flaw {
            Flaw::FoldsIds => id.to_lowercase(),
            Flaw::TrimsIds => id.trim().to_owned(),
            _ => id.to_owned(),
        }
    }

    fn version(&self, version: u64) -> u64 {
        match self.flaw {
            Flaw::RoundsVersions => version as f64 as u64,
            Flaw::CutsVersions => u64::from(version as u32),
            _ => version,
        }
    }

    fn known(&self, id: &str) -> Option<u64> {
        self.kept.lock().unwrap().get(id).map(|(version, _)| *version)
    }

    async fn write_one(&self, write: &VersionedWrite) -> Written {
        let (id, version) = (self.id(&write.id), self.version(write.version));
        if let Some(bad) = write.document.as_ref().filter(|document| number(document).is_none()) {
            if self.flaw == Flaw::RemembersTheRefused {
                self.kept.lock().unwrap().insert(id, (version, Some(bad.clone())));
            }
            return Written::Refused("it has no number".to_owned());
        }
        let known = self.known(&id);
        if self.flaw == Flaw::ChecksThenWrites {
            tokio::task::yield_now().await;
        }
        let deleted = self.kept.lock().unwrap().get(&id).is_some_and(|(_, document)| document.is_none());
        let stale = match self.flaw {
            Flaw::AcceptsStale => false,
            Flaw::AcceptsEqual => known.is_some_and(|known| known > version),
            Flaw::KeepsTheFirst => known.is_some(),
            Flaw::DeletesForEver => deleted || known.is_some_and(|known| known >= version),
            Flaw::DeletesOnlyWhatIsThere if known.is_none() && write.document.is_none() => return Written::Stored,
            _ => known.is_some_and(|known| known >= version),
        };
        if stale {
            return Written::Stale;
        }
        let mut document = write.document.clone();
        if self.flaw == Flaw::CutsDocuments {
            document = document.map(|document| document.slice(..document.len().min(1 << 16)));
        }
        let mut kept = self.kept.lock().unwrap();
        if self.flaw == Flaw::ForgetsDeletions && document.is_none() {
            kept.remove(&id);
        } else {
            kept.insert(id, (version, document));
        }
        Written::Stored
    }
}

#[async_trait]
impl VersionedStore for Broken {
    async fn write(&self, writes: &[VersionedWrite]) -> Result<Vec<Written>, StoreError> {
        let bad = |write: &VersionedWrite| write.document.as_ref().is_some_and(|document| number(document).is_none());
        if self.flaw == Flaw::AllOrNothing && writes.iter().any(bad) {
            return Ok(vec![Written::Refused("the request is bad".to_owned()); writes.len()]);
        }
        let mut ordered: Vec<_> = writes.iter().collect();
        if self.flaw == Flaw::AnswersById {
            ordered.sort_by(|one, other| one.id.cmp(&other.id));
        }
        let mut written = Vec::new();
        for write in ordered {
            written.push(self.write_one(write).await);
        }
        Ok(written)
    }
}

struct Harness(Broken);

impl Harness {
    fn with(flaw: Flaw) -> Self {
        Self(Broken { flaw, kept: Mutex::default() })
    }
}

#[async_trait]
impl VersionedStoreHarness for Harness {
    type Store = Broken;

    fn store(&self) -> &Broken {
        &self.0
    }

    fn document(&self, id: &str, number: u64, text_bytes: usize) -> Bytes {
        document(id, number, text_bytes)
    }

    fn refused_document(&self) -> Option<Bytes> {
        Some(Bytes::from_static(b"{}"))
    }

    async fn find(&self, id: &str) -> Option<u64> {
        let kept = self.0.kept.lock().unwrap();
        let (version, document) = kept.get(&self.0.id(id))?;
        match document {
            None if self.0.flaw == Flaw::ShowsTombstones => Some(*version),
            None => None,
            Some(document) => number(document),
        }
    }

    async fn restart(&mut self) -> bool {
        if self.0.flaw == Flaw::ForgetsDeletionsAtRestart {
            self.0.kept.lock().unwrap().retain(|_, (_, document)| document.is_some());
        }
        true
    }
}

outbox_projector::versioned_store_suite!(without_a_flaw, async || Harness::with(Flaw::None));

/// One test for each flaw and the case that catches it, by what it complains of.
macro_rules! caught {
    ($($name:ident: $flaw:ident by $case:ident, $complaint:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let case = tokio::spawn(async {
                suite::$case(&mut Harness::with(Flaw::$flaw)).await;
            });
            let caught = case.await.expect_err("the case lets the broken store pass").into_panic();
            let text = caught.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let said = text.or_else(|| caught.downcast_ref::<String>().cloned()).unwrap_or_default();
            assert!(said.contains($complaint), "caught for another reason: {said:?} instead of {:?}", $complaint);
        })*
    };
}

caught! {
    the_first_is_kept: KeepsTheFirst by a_higher_version_wins, "right: Stored";
    an_equal_version_is_accepted: AcceptsEqual by an_equal_version_is_stale, "right: Stale";
    a_stale_version_is_accepted: AcceptsStale by a_lower_version_is_stale, "right: Stale";
    a_stale_request_is_accepted: AcceptsStale by the_order_of_a_request_does_not_matter, "forwards, version 1";
    versions_are_rounded: RoundsVersions by the_largest_versions_are_told_apart, "9223372036854775807";
    versions_are_cut: CutsVersions by the_largest_versions_are_told_apart, "8589934592 − 1";
    answers_stand_elsewhere: AnswersById by answers_stand_in_the_order_of_the_writes, "left == right";
    deletions_are_forgotten: ForgetsDeletions by a_late_update_does_not_resurrect, "right: Stale";
    tombstones_are_found: ShowsTombstones by a_late_update_does_not_resurrect, "right: None";
    deletions_are_forgotten_at_restart:
        ForgetsDeletionsAtRestart by a_late_update_does_not_resurrect_after_a_restart, "right: Stale";
    a_deletion_of_nothing_is_forgotten:
        DeletesOnlyWhatIsThere by a_deletion_of_what_never_was_is_remembered, "right: Stale";
    a_deletion_is_for_ever: DeletesForEver by an_update_above_a_deletion_revives, "right: Stored";
    all_or_nothing: AllOrNothing by a_refused_document_keeps_no_other_out, "left == right";
    a_refused_version_is_remembered: RemembersTheRefused by a_refused_document_keeps_no_other_out, "no version behind";
    documents_are_cut: CutsDocuments by large_documents_are_kept_whole, "right: Some(2)";
    ids_are_folded: FoldsIds by ids_are_kept_apart_whatever_they_are, "left == right";
    ids_are_trimmed: TrimsIds by ids_are_kept_apart_whatever_they_are, "left == right";
    checked_then_written: ChecksThenWrites by of_concurrent_writers_of_one_id_the_highest_wins, "round";
    random_stale_versions_are_accepted: AcceptsStale by random_histories_end_as_the_model_says, "everything else is stale";
    random_equal_versions_are_accepted: AcceptsEqual by random_histories_end_as_the_model_says, "everything else is stale";
    random_deletions_are_forgotten: ForgetsDeletions by random_histories_end_as_the_model_says, "everything else is stale";
}
