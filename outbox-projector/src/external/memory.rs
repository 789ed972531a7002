use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::source::{Partition, SourcePosition};

use super::{Commit, CommitError, PositionedStore, StoreError, VersionedStore, VersionedWrite, Written};

/// Documents in memory, for tests: a [`VersionedStore`] and a [`PositionedStore`]. Clones share them.
#[derive(Clone)]
pub struct MemoryDocuments {
    rule: Rule,
    kept: Arc<Mutex<Kept>>,
}

type Rule = Arc<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

#[derive(Default)]
struct Kept {
    /// With their versions; `None`: a tombstone.
    documents: HashMap<String, (u64, Option<Bytes>)>,
    positions: HashMap<Partition, SourcePosition>,
}

impl Default for MemoryDocuments {
    fn default() -> Self {
        Self { rule: Arc::new(|_| Ok(())), kept: Arc::default() }
    }
}

impl fmt::Debug for MemoryDocuments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDocuments").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl MemoryDocuments {
    /// Refuses the documents for which the rule gives a reason. By default none.
    #[must_use]
    pub fn with_rule(mut self, rule: impl Fn(&[u8]) -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.rule = Arc::new(rule);
        self
    }

    /// The document of this id, unless it was deleted.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Bytes> {
        self.lock().documents.get(id)?.1.clone()
    }

    /// The version of this id, deleted or not.
    #[must_use]
    pub fn version(&self, id: &str) -> Option<u64> {
        self.lock().documents.get(id).map(|(version, _)| *version)
    }

    /// How many documents there are, without the deleted ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().documents.values().filter(|(_, document)| document.is_some()).count()
    }

    /// Whether there is no document.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn refusal(&self, write: &VersionedWrite) -> Option<String> {
        (self.rule)(write.document.as_deref()?).err()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics halfway through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Whether it was above what is there.
    fn store(&mut self, write: &VersionedWrite) -> bool {
        let stale = self.documents.get(&write.id).is_some_and(|(version, _)| *version >= write.version);
        if !stale {
            self.documents.insert(write.id.clone(), (write.version, write.document.clone()));
        }
        !stale
    }
}

#[async_trait]
impl VersionedStore for MemoryDocuments {
    async fn write(&self, writes: &[VersionedWrite]) -> Result<Vec<Written>, StoreError> {
        let mut kept = self.lock();
        let write = |write: &VersionedWrite| match self.refusal(write) {
            Some(reason) => Written::Refused(reason),
            None if kept.store(write) => Written::Stored,
            None => Written::Stale,
        };
        Ok(writes.iter().map(write).collect())
    }
}

#[async_trait]
impl PositionedStore for MemoryDocuments {
    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, StoreError> {
        Ok(self.lock().positions.get(partition).cloned())
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<bool>, CommitError> {
        let refused = |(write, of): (usize, &VersionedWrite)| Some((write, self.refusal(of)?));
        if let Some((write, reason)) = commit.writes.iter().enumerate().find_map(refused) {
            return Err(CommitError::Refused { write, reason });
        }
        let mut kept = self.lock();
        if kept.positions.get(&commit.partition) != commit.from.as_ref() {
            return Err(CommitError::Conflict);
        }
        kept.positions.insert(commit.partition, commit.to);
        Ok(commit.writes.iter().map(|write| kept.store(write)).collect())
    }
}
