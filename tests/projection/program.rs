//! The program of a projector process: this test program, started with a projector's orders in its environment.

use std::{
    env,
    io::{Read as _, Write as _},
    num::NonZeroU32,
    process,
    sync::Arc,
    time::Duration,
};

use outbox_core::{
    log::ConsumerName,
    log_source::LogSource,
    projection::Projection,
    retry::Backoff,
    source::{EventSource, Partition, SourcePosition},
};
use outbox_kafka::{KafkaPublisher, KafkaSource};
use outbox_projector::{
    PartitionState, PartitionStatus, Projector, ProjectorStatus,
    dead_letters::TopicDeadLetters,
    external::VersionedProjection,
    inbox::InboxProjection,
    sql::{PostgresProjection, ProjectionName},
};
use outbox_sqlx::PostgresLog;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    model::Kind,
    mortal::{Failpoint, Fuse, MortalLetters, MortalProjection, MortalSource},
    read_model::{DocumentTable, ListAndCount, OneByOne, document},
};

/// A projector's [`Orders`] as JSON.
pub(crate) const ORDERS: &str = "OUTBOX_PROJECTOR_ORDERS";
/// Before each line that tells of the projector's status.
pub(crate) const STATUS: &str = "projector-status ";

/// The shortest that brokers allow by default. After a crash the others wait for so long.
pub(crate) const SESSION: Duration = Duration::from_secs(6);
/// The same for the log.
const LEASE: Duration = Duration::from_secs(2);
/// Small, so that there are many steps to die in.
const BATCH: usize = 20;

/// What a projector process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) database: String,
    pub(crate) brokers: String,
    /// `None`: straight from the log in the database.
    pub(crate) topic: Option<String>,
    pub(crate) letters: String,
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) die: Option<String>,
    /// Each event takes up to so long.
    pub(crate) takes: Duration,
}

/// Not a test by itself: the program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projector() {
    let Ok(orders) = env::var(ORDERS) else { return };
    end_with_the_test();
    let mut terminated = signal(SignalKind::terminate()).expect("handler");
    let orders: Orders = serde_json::from_str(&orders).expect("orders");
    let fuse = Fuse::at(orders.die.as_deref().map(|name| Failpoint::named(name).expect("a failpoint")));
    let pool = PgPoolOptions::new().max_connections(5).connect(&orders.database).await.expect("PostgreSQL");
    let publisher = KafkaPublisher::builder(&orders.brokers).build().expect("publisher");
    let letters = TopicDeadLetters::new(Arc::new(publisher), orders.letters.clone());
    let projection = MortalProjection::new(projection(&orders, &pool, &fuse), fuse.clone());
    let projector = Projector::builder(MortalSource::new(source(&orders, &pool), fuse.clone()), Arc::new(projection))
        .batch(BATCH)
        .attempts(NonZeroU32::new(3).expect("not 0"))
        .retry(Backoff::new(Duration::from_millis(20), Duration::from_millis(500)))
        .dead_letters(Arc::new(MortalLetters::new(letters, fuse)))
        .build();
    let telling = tokio::spawn(tell(projector.status()));
    projector.run(async { _ = terminated.recv().await }).await.expect("a projector that waits for whatever is away");
    telling.abort();
}

fn source(orders: &Orders, pool: &PgPool) -> Box<dyn EventSource> {
    let Some(topic) = &orders.topic else {
        let log = Arc::new(PostgresLog::builder(pool.clone()).build());
        let consumer = ConsumerName::parse(&orders.group).expect("a name");
        let source = LogSource::builder(log).consumer(consumer).batch(BATCH).lease(LEASE);
        return Box::new(source.poll(Duration::from_millis(100)).build());
    };
    let source = KafkaSource::builder(&orders.brokers, &orders.group, [topic])
        .batch(BATCH)
        .setting("session.timeout.ms", SESSION.as_millis().to_string())
        .setting("heartbeat.interval.ms", "1000")
        .build();
    Box::new(source.expect("a source"))
}

fn projection(orders: &Orders, pool: &PgPool, fuse: &Fuse) -> Arc<dyn Projection> {
    let pool = pool.clone();
    let name = ProjectionName::parse("model").expect("a name");
    let handler = ListAndCount { fuse: fuse.clone(), takes: orders.takes };
    match Kind::ALL.into_iter().find(|kind| kind.name() == orders.kind).expect("a kind") {
        Kind::Sql => Arc::new(PostgresProjection::builder(pool, name, handler).build()),
        Kind::Inbox => Arc::new(InboxProjection::builder(pool, name, OneByOne(handler)).build()),
        Kind::Versioned => {
            let table = DocumentTable { pool, fuse: fuse.clone() };
            Arc::new(VersionedProjection::builder("model", table, document).build())
        }
    }
}

/// A test that is itself killed leaves no projector behind: its end of the pipe goes with it.
fn end_with_the_test() {
    std::thread::spawn(|| {
        _ = std::io::stdin().read(&mut [0]);
        process::exit(1);
    });
}

/// What a projector tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Partitions that it owns.
    pub(crate) partitions: usize,
    pub(crate) applied: usize,
    pub(crate) duplicates: usize,
    pub(crate) dead_letters: usize,
    pub(crate) conflicts: usize,
    pub(crate) problem: Option<String>,
    /// Each partition's number with its state and position, for people.
    pub(crate) states: Vec<String>,
}

impl Seen {
    fn of(status: &ProjectorStatus) -> Self {
        let partitions = || status.partitions.values();
        let totals = status.totals();
        Self {
            partitions: partitions().filter(|p| p.state != PartitionState::Revoked).count(),
            applied: totals.applied,
            duplicates: totals.duplicates,
            dead_letters: partitions().map(|p| p.dead_letters).sum(),
            conflicts: partitions().map(|p| p.conflicts).sum(),
            problem: status.problem(),
            states: status.partitions.iter().map(|(partition, p)| describe(partition, p)).collect(),
        }
    }
}

fn describe(partition: &Partition, p: &PartitionStatus) -> String {
    let number = partition.as_str().rsplit('/').next().unwrap_or_default();
    let position = p.position.as_ref().map_or("nowhere", SourcePosition::as_text);
    format!("{number}: {:?} at {position}, lag {:?}", p.state, p.lag)
}

async fn tell(mut status: watch::Receiver<ProjectorStatus>) {
    loop {
        let seen = Seen::of(&status.borrow_and_update());
        let line = format!("{STATUS}{}\n", serde_json::to_string(&seen).expect("JSON"));
        // One write, so that no other line gets in between.
        std::io::stdout().write_all(line.as_bytes()).expect("the test listens");
        if status.changed().await.is_err() {
            return;
        }
    }
}
