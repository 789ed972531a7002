use async_trait::async_trait;
use outbox_core::source::{Partition, SourcePosition};
use uuid::Uuid;

use crate::external::{Commit, CommitError, PositionedStore, StoreError, VersionedStore, VersionedWrite, Written};

/// A [`PositionedStore`] to which every request is a commit, so that it can pass the suite of [`VersionedStore`].
#[derive(Debug, Clone)]
pub struct CommitEach<S> {
    store: S,
    partition: Partition,
}

impl<S> CommitEach<S> {
    /// Commits to a partition called `suite`.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self { store, partition: Partition::new("suite") }
    }

    /// The store inside.
    pub fn inner(&self) -> &S {
        &self.store
    }
}

#[async_trait]
impl<S: PositionedStore> VersionedStore for CommitEach<S> {
    async fn write(&self, writes: &[VersionedWrite]) -> Result<Vec<Written>, StoreError> {
        let mut written: Vec<Option<Written>> = vec![None; writes.len()];
        loop {
            let left: Vec<usize> = (0..writes.len()).filter(|index| written[*index].is_none()).collect();
            let commit = Commit {
                partition: self.partition.clone(),
                from: self.store.position(&self.partition).await?,
                to: SourcePosition::from_text(Uuid::now_v7().to_string()),
                writes: left.iter().map(|index| writes[*index].clone()).collect(),
            };
            match self.store.commit(commit).await {
                Ok(stored) => {
                    assert_eq!(stored.len(), left.len(), "one answer for each write");
                    for (index, stored) in left.into_iter().zip(stored) {
                        written[index] = Some(if stored { Written::Stored } else { Written::Stale });
                    }
                    return Ok(written.into_iter().flatten().collect());
                }
                // Another writer was quicker.
                Err(CommitError::Conflict) => {}
                Err(CommitError::Refused { write, reason }) => written[left[write]] = Some(Written::Refused(reason)),
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
    }
}
