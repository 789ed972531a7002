//! An index whose disk fails: a step is there as a whole or not at all, and the next one works.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, Projection, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};
use tantivy::{
    Directory, Index, IndexSettings,
    directory::{
        FileHandle, RamDirectory, WatchCallback, WatchHandle, WritePtr,
        error::{DeleteError, OpenReadError, OpenWriteError},
    },
};
use uuid::Uuid;

use super::*;
use crate::{
    http::QueryPairs,
    search::change::tests::{document, received},
    tutors::TUTOR_CREATED,
};

const LOG: LogId = LogId(Uuid::from_u128(1));

#[tokio::test]
async fn a_step_whose_commit_failed_is_not_there_and_comes_whole_later() {
    for what in [Fault::NewFiles, Fault::Commits] {
        let it = Fixture::new();
        it.apply(None, "1", &[created(1, 1)]).await.expect("applied");
        it.disk.set(what, true);
        // A writer that failed, and one that was opened after that.
        for _ in 0..2 {
            let error = it.apply(Some("1"), "2", &[created(2, 2), created(3, 3)]).await.expect_err("no room");
            assert_eq!(error.kind(), ProjectionErrorKind::Unavailable, "{error}");
        }
        it.disk.set(what, false);
        assert_eq!(it.position().await.expect("position").as_deref(), Some("1"));
        it.apply(Some("1"), "other", &[created(4, 4)]).await.expect("applied");
        assert_eq!(it.ids().await, [1, 4], "nothing of the step that failed: {what:?}");
        let applied = it.apply(Some("other"), "2", &[created(2, 2), created(3, 3)]).await.expect("applied");
        assert_eq!((applied.applied, applied.duplicates), (2, 0));
        assert_eq!(it.ids().await, [1, 2, 3, 4]);
    }
}

#[tokio::test]
async fn an_index_that_cannot_even_be_read_for_a_while_goes_on_afterwards() {
    let it = Fixture::new();
    it.apply(None, "1", &[created(1, 1)]).await.expect("applied");
    // So nothing can be rolled back either.
    it.disk.set(Fault::Commits, true);
    it.disk.set(Fault::Reads, true);
    for _ in 0..3 {
        let error = it.apply(Some("1"), "2", &[created(2, 2)]).await.expect_err("no disk");
        assert_eq!(error.kind(), ProjectionErrorKind::Unavailable, "{error}");
        assert_eq!(it.position().await.expect_err("no disk").kind(), ProjectionErrorKind::Unavailable);
        assert_eq!(it.ids().await, [1], "searches go on");
    }
    it.disk.set(Fault::Commits, false);
    it.disk.set(Fault::Reads, false);
    assert_eq!(it.position().await.expect("position").as_deref(), Some("1"));
    it.apply(Some("1"), "2", &[created(2, 2)]).await.expect("applied");
    assert_eq!(it.ids().await, [1, 2]);
}

#[tokio::test]
async fn a_commit_that_took_effect_though_it_failed_is_not_made_twice() {
    let it = Fixture::new();
    it.apply(None, "1", &[created(1, 1)]).await.expect("applied");
    // The commit writes, and then the searcher cannot be renewed.
    it.disk.set(Fault::Reads, true);
    let error = it.apply(Some("1"), "2", &[created(2, 2)]).await.expect_err("no disk");
    assert_eq!(error.kind(), ProjectionErrorKind::Unavailable, "{error}");
    it.disk.set(Fault::Reads, false);
    let error = it.apply(Some("1"), "2", &[created(2, 2)]).await.expect_err("it is there");
    assert_eq!(error.kind(), ProjectionErrorKind::Conflict, "{error}");
    assert_eq!(it.position().await.expect("position").as_deref(), Some("2"));
    assert_eq!(it.ids().await, [1, 2], "and it is found, though nothing came after it");
}

#[tokio::test]
async fn after_a_panic_the_index_stands_where_it_was_committed() {
    let it = Fixture::new();
    it.apply(None, "1", &[created(1, 1)]).await.expect("applied");
    it.disk.set(Fault::Panics, true);
    let error = it.apply(Some("1"), "2", &[created(2, 2)]).await.expect_err("a panic");
    assert_eq!(error.kind(), ProjectionErrorKind::Unavailable, "{error}");
    it.disk.set(Fault::Panics, false);
    assert_eq!(it.position().await.expect("position").as_deref(), Some("2"), "it panicked behind the commit");
    it.apply(Some("2"), "3", &[created(3, 3)]).await.expect("applied");
    assert_eq!(it.ids().await, [1, 2, 3]);
}

struct Fixture {
    index: TantivyIndex,
    disk: FaultyDisk,
}

impl Fixture {
    fn new() -> Self {
        let disk = FaultyDisk::default();
        let index = Index::create(disk.clone(), fields::schema(), IndexSettings::default()).expect("index");
        let opened = Opened { index, incarnation: "test".to_owned() };
        Self { index: TantivyIndex::of(opened, LOG).expect("opened"), disk }
    }

    async fn apply(&self, from: Option<&str>, to: &str, events: &[ReceivedEvent]) -> Result<Applied, ProjectionError> {
        let (from, to) = (from.map(SourcePosition::from_text), SourcePosition::from_text(to));
        self.index.projection().apply(Step::new(&partition(), from.as_ref(), &to, events)).await
    }

    async fn position(&self) -> Result<Option<String>, ProjectionError> {
        let position = self.index.projection().position(&partition()).await?;
        Ok(position.map(|position| position.as_text().to_owned()))
    }

    async fn ids(&self) -> Vec<i64> {
        let query = SearchQuery::parse(&QueryPairs::default()).expect("query");
        self.index.search(&query).await.expect("found").documents.iter().map(|document| document.id).collect()
    }
}

fn partition() -> Partition {
    Partition::new("log/test")
}

fn created(position: u64, id: i64) -> ReceivedEvent {
    let tutor = serde_json::to_value(document(id, "Anna")).expect("JSON");
    received(position, id, TUTOR_CREATED, &tutor)
}

/// A directory in memory that fails while it is told to.
#[derive(Debug, Clone, Default)]
struct FaultyDisk {
    inner: RamDirectory,
    faults: Arc<[AtomicBool; 4]>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// No file can be begun: the indexing thread fails.
    NewFiles,
    /// What was committed cannot be written down.
    Commits,
    /// What was committed cannot be read: nothing can be opened, nor rolled back.
    Reads,
    /// Reading that panics.
    Panics,
}

impl FaultyDisk {
    fn set(&self, fault: Fault, fails: bool) {
        self.faults[fault as usize].store(fails, Ordering::SeqCst);
    }

    fn check(&self, fault: Fault) -> io::Result<()> {
        let fails = self.faults[fault as usize].load(Ordering::SeqCst);
        if fails { Err(io::Error::other(format!("{fault:?} on cue"))) } else { Ok(()) }
    }
}

impl Directory for FaultyDisk {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        self.inner.get_file_handle(path)
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.inner.delete(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.inner.exists(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        self.check(Fault::NewFiles).map_err(|error| OpenWriteError::wrap_io_error(error, path.to_owned()))?;
        self.inner.open_write(path)
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.check(Fault::Panics).expect("no panic");
        self.check(Fault::Reads).map_err(|error| OpenReadError::wrap_io_error(error, path.to_owned()))?;
        self.inner.atomic_read(path)
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        if path == Path::new("meta.json") {
            self.check(Fault::Commits)?;
        }
        self.inner.atomic_write(path, data)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory()
    }

    fn watch(&self, callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        self.inner.watch(callback)
    }
}
