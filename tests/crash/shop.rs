//! A database and a topic of one test's own, and writers that do not care whether relays live.

use std::{collections::HashSet, sync::Arc, time::Duration};

use outbox_core::{
    event::Sequence,
    log::{ConsumerName, LogAdmin, Redrive, Track},
};
use tempfile::TempDir;
use test_services::{PostgresVersion, TestDatabase};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    relay_process::RelayProcess,
    store::{AGGREGATES, Store, profile_to},
    topic::Topic,
};

/// The aggregate that gets the poison.
pub(crate) const POISONED: i64 = 1;
/// More than the topic takes at first.
const POISON_BYTES: usize = 200_000;

/// Much more in all than the window of a relay.
const BACKLOG_EACH: usize = 6;
const WRITERS: i64 = 4;
/// The load is steady, and leaves two cores room for several shops at once.
const PACE: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Sqlite,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Sqlite => "SQLite",
        }
    }
}

pub(crate) struct Shop {
    pub(crate) topic: Topic,
    pub(crate) store: Store,
    /// As [`Store::connect`] takes it.
    pub(crate) database: String,
    ground: Ground,
}

/// What the database lives in.
enum Ground {
    Postgres(TestDatabase),
    Sqlite(TempDir),
}

impl Shop {
    pub(crate) async fn open(kind: Kind) -> Self {
        let topic = Topic::create().await;
        let (ground, database) = match kind {
            Kind::Postgres => {
                let database = TestDatabase::create(PostgresVersion::V15).await;
                let url = database.url().to_owned();
                (Ground::Postgres(database), url)
            }
            Kind::Sqlite => {
                let folder = tempfile::tempdir().expect("folder");
                let path = folder.path().join("shop.sqlite").to_str().expect("text").to_owned();
                (Ground::Sqlite(folder), path)
            }
        };
        let store = Store::connect(&database, profile_to(&topic.name)).await;
        store.create_tables().await;
        Self { topic, store, database, ground }
    }

    pub(crate) async fn close(self) {
        self.topic.delete().await;
        match self.ground {
            Ground::Postgres(database) => database.drop_database().await,
            Ground::Sqlite(folder) => folder.close().expect("removed"),
        }
    }

    /// Writers that go on until told to stop, after some events that are there from the beginning.
    pub(crate) async fn write(&self) -> Writing {
        for aggregate in 1..=AGGREGATES {
            self.store.change(aggregate, BACKLOG_EACH, 0).await;
        }
        let (stop, stopped) = watch::channel(());
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (store, mut stopped) = (self.store.clone(), stopped.clone());
            writers.spawn(async move {
                let mut pace = interval(PACE);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for n in 0.. {
                    tokio::select! {
                        biased;
                        _ = stopped.changed() => return,
                        _ = pace.tick() => {}
                    }
                    // In different orders, so that they meet.
                    store.change((n * (2 * writer + 1) + writer) % AGGREGATES + 1, 1, 0).await;
                }
            });
        }
        Writing { stop, writers }
    }

    /// Writes an event that the topic does not take, and returns its version.
    pub(crate) async fn poison(&self) -> i64 {
        self.store.change(POISONED, 1, POISON_BYTES).await
    }

    /// Makes the topic take it, and asks for what is parked again. Returns how many keys were blocked.
    pub(crate) async fn heal(&self) -> u64 {
        self.topic.raise_limit().await;
        self.log().redrive(&consumer(), &Redrive::All).await.expect("redrive")
    }

    pub(crate) async fn parked(&self) -> HashSet<Sequence> {
        let parked = self.log().parked(&consumer(), None, 10_000).await.expect("parked");
        parked.into_iter().map(|parked| parked.event.origin.sequence).collect()
    }

    /// Until so many events are parked in all. Their owner tells of each.
    pub(crate) async fn until_parked(&self, events: usize, owner: &mut RelayProcess) {
        while self.parked().await.len() < events {
            owner.changed().await;
        }
    }

    /// Where the last recorded checkpoints stand.
    pub(crate) async fn recorded(&self) -> Vec<Track> {
        self.log().progress(&consumer()).await.expect("progress").tracks
    }

    /// All events behind these places.
    pub(crate) async fn behind(&self, mut places: Vec<Track>) -> HashSet<Sequence> {
        let (log, mut behind) = (self.log(), HashSet::new());
        loop {
            let pages = log.read(&places, 1_000).await.expect("read");
            behind.extend(pages.iter().flat_map(|page| &page.events).map(|recorded| recorded.origin.sequence));
            if pages.iter().all(|page| page.caught_up) {
                return behind;
            }
            for (place, page) in places.iter_mut().zip(pages) {
                place.cursor = page.next;
            }
        }
    }

    fn log(&self) -> Arc<dyn LogAdmin> {
        self.store.log()
    }
}

pub(crate) struct Writing {
    stop: watch::Sender<()>,
    writers: JoinSet<()>,
}

impl Writing {
    pub(crate) async fn stop(mut self) {
        drop(self.stop);
        while let Some(writer) = self.writers.join_next().await {
            writer.expect("no writer fails");
        }
    }
}

fn consumer() -> ConsumerName {
    ConsumerName::parse("relay").expect("name")
}
