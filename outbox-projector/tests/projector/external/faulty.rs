use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use outbox_projector::external::{
    MemoryDocuments, StoreError, StoreErrorKind, VersionedStore, VersionedWrite, Written,
};

/// A store that fails on cue, and says what it was asked. Clones share the cues.
#[derive(Clone)]
pub(super) struct Faulty {
    pub(super) documents: MemoryDocuments,
    cues: Arc<Mutex<Cues>>,
}

#[derive(Default)]
struct Cues {
    requests: Vec<Vec<String>>,
    /// Requests of more bytes are too large.
    most_bytes: Option<usize>,
    failures: Vec<StoreErrorKind>,
    /// How often it is still too busy for a document.
    busy: HashMap<String, usize>,
    swallows_an_answer: bool,
}

impl Faulty {
    pub(super) fn new() -> Self {
        Self { documents: super::store(), cues: Arc::default() }
    }

    /// The next request fails so. Called again: the one after it.
    pub(super) fn fail_next(&self, kind: StoreErrorKind) {
        self.cues.lock().unwrap().failures.push(kind);
    }

    pub(super) fn busy_for(&self, id: &str, times: usize) {
        self.cues.lock().unwrap().busy.insert(id.to_owned(), times);
    }

    pub(super) fn take_at_most(&self, bytes: usize) {
        self.cues.lock().unwrap().most_bytes = Some(bytes);
    }

    pub(super) fn swallow_an_answer(&self) {
        self.cues.lock().unwrap().swallows_an_answer = true;
    }

    /// The ids of each request since the last call.
    pub(super) fn requests(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.cues.lock().unwrap().requests)
    }

    /// What it says before it looks at the documents, and which it is too busy for.
    fn cue(&self, writes: &[VersionedWrite]) -> Result<Vec<bool>, StoreError> {
        let mut cues = self.cues.lock().unwrap();
        cues.requests.push(writes.iter().map(|write| write.id.clone()).collect());
        if !cues.failures.is_empty() {
            return Err(StoreError::new(cues.failures.remove(0), "on cue"));
        }
        let bytes: usize = writes.iter().filter_map(|write| Some(write.document.as_ref()?.len())).sum();
        if cues.most_bytes.is_some_and(|most| bytes > most) {
            return Err(StoreError::new(StoreErrorKind::TooLarge, "more than it takes"));
        }
        let busy = writes.iter().map(|write| {
            let times = cues.busy.get_mut(&write.id).filter(|times| **times > 0);
            times.map(|times| *times -= 1).is_some()
        });
        Ok(busy.collect())
    }
}

#[async_trait]
impl VersionedStore for Faulty {
    async fn write(&self, writes: &[VersionedWrite]) -> Result<Vec<Written>, StoreError> {
        let busy = self.cue(writes)?;
        let mut written = Vec::new();
        for (write, busy) in writes.iter().zip(busy) {
            if busy {
                written.push(Written::Busy("on cue".to_owned()));
            } else {
                written.extend(self.documents.write(std::slice::from_ref(write)).await?);
            }
        }
        if std::mem::take(&mut self.cues.lock().unwrap().swallows_an_answer) {
            written.pop();
        }
        Ok(written)
    }
}
