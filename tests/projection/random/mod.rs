//! Random histories: events of few keys, each repeated 0 to 3 times at any later moment, in random batches, over partitions
//! that change hands at random between two runners, onto a database that loses answers.

mod flaky;
mod group;

use std::{env, sync::Arc, time::Duration};

use outbox_core::{event::NewEvent, projection::Projection, retry::Backoff, testing::Sequencer};
use outbox_projector::{
    Projector,
    external::VersionedProjection,
    inbox::InboxProjection,
    sql::{PostgresProjection, ProjectionName},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use test_services::{PostgresVersion, TestDatabase};
use tokio::time::timeout;

use self::{flaky::Flaky, group::Group};
use crate::{
    PATIENCE,
    model::{Difference, Kind, Logged, Model},
    read_model::{CHANGED, DocumentTable, ERASED, ListAndCount, OneByOne, document},
    running::Running,
    shop::create_read_model,
};

const KEYS: usize = 5;
const PARTITIONS: usize = 2;
const EVENTS: usize = 60;
/// Histories of each kind. Default: 40.
const CASES: &str = "OUTBOX_TEST_CASES";
const SEED: &str = "OUTBOX_TEST_SEED";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_history_leads_a_sql_projection_to_the_model() {
    hold(Kind::Sql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_history_leads_an_inbox_to_the_model() {
    hold(Kind::Inbox).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_history_leads_versioned_documents_to_the_model() {
    hold(Kind::Versioned).await;
}

/// A seed that is given is the seed of the only history.
async fn hold(kind: Kind) {
    let number = |name| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let (seeds, random): (Vec<u64>, fn() -> u64) = (number(SEED).into_iter().collect(), rand::random);
    let cases = number(CASES).unwrap_or(40);
    let seeds = if seeds.is_empty() { (0..cases).map(|_| random()).collect() } else { seeds };
    let database = TestDatabase::create(PostgresVersion::V15).await;
    create_read_model(database.pool()).await;
    let (mut conflicts, mut duplicates) = (0, 0);
    for seed in seeds {
        let counts = one(kind, &database, seed).await;
        (conflicts, duplicates) = (conflicts + counts.0, duplicates + counts.1);
    }
    println!("{}: {cases} histories; {conflicts} steps met a conflict, {duplicates} events came again", kind.name());
    assert!(duplicates > 0);
    assert!(kind != Kind::Sql || conflicts > 0, "somebody who lost a partition was never kept out");
    database.drop_database().await;
}

async fn one(kind: Kind, database: &TestDatabase, seed: u64) -> (usize, usize) {
    sqlx::raw_sql("TRUNCATE entry, latest, document").execute(database.pool()).await.expect("empty tables");
    let mut random = StdRng::seed_from_u64(seed);
    let (model, group) = history(&mut random, seed);
    let runners = [0, 1].map(|member| {
        let projection = Flaky::new(projection(kind, database, seed), StdRng::seed_from_u64(seed ^ (member + 1)));
        let source = group.member(member as usize);
        let fast = Backoff::new(Duration::from_millis(1), Duration::from_millis(10));
        Running::start(Projector::builder(source, Arc::new(projection)).retry(fast).batch(random.random_range(1..30)))
    });
    let done = timeout(PATIENCE, group.until_applied(&runners)).await.is_ok();
    let said = runners.each_ref().map(|running| running.status.borrow().clone());
    for running in runners {
        running.stop().await;
    }
    assert!(done, "{}, {SEED}={seed}: not everything is applied: {said:#?}", kind.name());
    let difference = model.compare(kind, database.pool()).await;
    assert_eq!(difference, Difference::default(), "{}, {SEED}={seed}", kind.name());
    let conflicts = said.iter().flat_map(|s| s.partitions.values()).map(|p| p.conflicts).sum();
    (conflicts, said.iter().map(|s| s.totals().duplicates).sum())
}

/// The model, and the partitions of which the events come.
fn history(random: &mut StdRng, seed: u64) -> (Model, Group) {
    let log = Sequencer::default();
    let mut versions = [0; KEYS];
    let mut logged = Vec::new();
    let mut partitions = vec![Vec::new(); PARTITIONS];
    let mut copies = Vec::new();
    for _ in 0..EVENTS {
        let key = random.random_range(0..KEYS);
        versions[key] += 1;
        let event_type = if random.random_bool(0.2) { ERASED } else { CHANGED };
        let event = NewEvent::json("Agg", key, event_type, &json!({ "v": versions[key] })).expect("event");
        let received = log.receive(event);
        logged.push(Logged {
            id: received.event.id,
            aggregate: key.to_string(),
            event_type: event_type.to_owned(),
            v: versions[key],
        });
        let partition: &mut Vec<_> = &mut partitions[key % PARTITIONS];
        copies.extend((0..random.random_range(0..=3)).map(|_| (key % PARTITIONS, partition.len(), received.clone())));
        partition.push(received);
    }
    // At any place behind its original, which stands at least where it stood when there were no copies.
    for (partition, original, copy) in copies.into_iter().rev() {
        let records = &mut partitions[partition];
        let at = random.random_range(original + 1..=records.len());
        records.insert(at, copy);
    }
    (Model::of(logged), Group::new(partitions, seed))
}

fn projection(kind: Kind, database: &TestDatabase, seed: u64) -> Box<dyn Projection> {
    let pool = database.pool().clone();
    let name = ProjectionName::parse(format!("model-{seed}")).expect("a name");
    match kind {
        Kind::Sql => Box::new(PostgresProjection::builder(pool, name, ListAndCount::default()).build()),
        Kind::Inbox => {
            let handler = OneByOne(ListAndCount::default());
            Box::new(InboxProjection::builder(pool, name, handler).concurrency(3).build())
        }
        Kind::Versioned => {
            let table = DocumentTable { pool, fuse: crate::mortal::Fuse::default() };
            Box::new(VersionedProjection::builder("model", table, document).bulk_writes(5).build())
        }
    }
}
