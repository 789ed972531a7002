//! A read model that is built anew beside the one in use.

mod claims;
mod discards;
#[cfg(feature = "postgres")]
mod on_postgres;
#[cfg(feature = "sqlite")]
mod on_sqlite;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    log::{ConsumerName, LogAdmin as _},
    memory::MemoryLog,
    projection::{ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
    testing::{Sequencer, number_of},
};
use outbox_projector::{
    rebuild::{
        Generation, Generations as _, LiveProjector, LogSources, Rebuild, RebuildErrorKind, RebuildPhase, Stage,
    },
    sql::{Handled, Handler, HandlerError, ProjectionName, SqlDatabase, SqlGenerations, SqlReadModel},
};
use sqlx::{AssertSqlSafe, Transaction};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{
    database::{Database, TestDatabase},
    model::received,
    on_every_database,
};
use crate::support::{append, counted, within};

/// Drops the future when it was woken so often. Whether it was done before.
async fn is_done_within(wakes: usize, mut future: impl Future + Unpin) -> bool {
    let mut polls = 0;
    std::future::poll_fn(|context| {
        let is_done = Pin::new(&mut future).poll(context).is_ready();
        polls += 1;
        if is_done || polls > wakes { Poll::Ready(is_done) } else { Poll::Pending }
    })
    .await
}

/// Sums by key: an event applied twice or not at all shows.
struct Sums;

struct SumsOf {
    table: String,
}

macro_rules! sums_on {
    ($($feature:literal $database:ty),*) => {$(
        #[cfg(feature = $feature)]
        #[async_trait]
        impl Handler<$database> for SumsOf {
            async fn handle(
                &self,
                tx: &mut Transaction<'_, $database>,
                received: &ReceivedEvent,
            ) -> Result<Handled, HandlerError> {
                let table = &self.table;
                let sql = format!(
                    "INSERT INTO {table} (key, n, events) VALUES ($1, $2, 1) \
                     ON CONFLICT (key) DO UPDATE SET n = {table}.n + excluded.n, events = {table}.events + 1"
                );
                let n = number_of(&received.event).expect("a number") as i64;
                let query = sqlx::query(AssertSqlSafe(sql)).bind(received.event.message_key()).bind(n);
                query.execute(&mut **tx).await?;
                Ok(Handled::Done)
            }
        }
    )*};
}
sums_on!("postgres" sqlx::Postgres, "sqlite" sqlx::Sqlite);

impl<DB: SqlDatabase> SqlReadModel<DB> for Sums
where
    SumsOf: Handler<DB>,
{
    fn create(&self, generation: Generation) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS sums_{generation} (key text PRIMARY KEY, n bigint NOT NULL, events bigint NOT NULL);"
        )
    }

    fn swap(&self, to: Generation) -> String {
        format!("DROP VIEW IF EXISTS sums; CREATE VIEW sums AS SELECT * FROM sums_{to};")
    }

    fn discard(&self, generation: Generation) -> String {
        format!("DROP TABLE IF EXISTS sums_{generation};")
    }

    fn handler(&self, generation: Generation, _stage: Stage) -> Box<dyn Handler<DB>> {
        Box::new(SumsOf { table: format!("sums_{generation}") })
    }
}

const SEEN: &str =
    "SELECT count(*), CAST(coalesce(sum(n), 0) AS bigint), CAST(coalesce(sum(events), 0) AS bigint) FROM sums";

/// What a query sees: keys, the sum of their numbers, events.
#[async_trait]
trait Seen: TestDatabase {
    async fn seen(pool: &sqlx::Pool<Self>) -> (i64, i64, i64);
}

macro_rules! seen_on {
    ($($feature:literal $database:ty),*) => {$(
        #[cfg(feature = $feature)]
        #[async_trait]
        impl Seen for $database {
            async fn seen(pool: &sqlx::Pool<Self>) -> (i64, i64, i64) {
                sqlx::query_as(SEEN).fetch_one(pool).await.expect("a query")
            }
        }
    )*};
}
seen_on!("postgres" sqlx::Postgres, "sqlite" sqlx::Sqlite);

const KEYS: i64 = 30;

struct Scene<DB: Seen> {
    log: MemoryLog,
    generations: Arc<SqlGenerations<DB>>,
    sources: Arc<LogSources>,
    pool: sqlx::Pool<DB>,
}

impl<DB: Seen> Scene<DB>
where
    SumsOf: Handler<DB>,
{
    fn new(database: &Database<DB>) -> Self {
        let log = MemoryLog::default();
        let name = ProjectionName::parse("sums").expect("name");
        let generations = Arc::new(SqlGenerations::new(database.pool.clone(), name, Sums).expect("a short name"));
        let consumer = ConsumerName::parse("sums").expect("name");
        let sources = Arc::new(LogSources::new(Arc::new(log.clone()), consumer).batch(10));
        Self { log, generations, sources, pool: database.pool.clone() }
    }

    async fn write(&self, numbers: std::ops::Range<i64>) {
        for n in numbers {
            append(&self.log, &[counted(&format!("key-{}", n % KEYS), n)]).await;
        }
    }

    /// The first generation, and a second one that this rebuild builds.
    async fn two_generations(&self) -> (Generation, Uuid) {
        let (second, rebuild) = (Generation::FIRST.next(), Uuid::now_v7());
        self.generations.claim(rebuild, Duration::from_hours(1)).await.expect("claim");
        self.generations.prepare(Generation::FIRST, None).await.expect("prepare");
        self.generations.prepare(second, Some(rebuild)).await.expect("prepare");
        (second, rebuild)
    }

    fn live(&self) -> Live {
        let live = LiveProjector::new(self.generations.clone(), self.sources.clone()).projector(|p| p.batch(10));
        let status = live.status();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            live.run(async {
                let _stop = stopped.await;
            })
            .await
        });
        Live { stop, task, status }
    }

    fn rebuild(&self) -> Rebuild {
        Rebuild::new(self.generations.clone(), self.sources.clone()).projector(|p| p.batch(10))
    }

    /// Until queries see so many events.
    async fn until_seen(&self, status: &mut watch::Receiver<outbox_projector::ProjectorStatus>, events: i64) {
        within("queries see it", async {
            status.wait_for(|s| !s.partitions.is_empty()).await.expect("it runs");
            while DB::seen(&self.pool).await.2 < events {
                status.changed().await.expect("it runs");
            }
        })
        .await;
        assert_eq!(DB::seen(&self.pool).await.2, events);
    }
}

struct Live {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), outbox_projector::rebuild::RebuildError>>,
    status: watch::Receiver<outbox_projector::ProjectorStatus>,
}

impl Live {
    async fn stop(self) {
        self.stop.send(()).ok();
        within("the end", self.task).await.expect("no panic").expect("run");
    }
}

/// While writers go on, no query ever sees less than what was there when the rebuild began, but for what the new
/// generation may be behind when it takes over; and in the end it holds exactly what the old one would.
async fn a_rebuild_is_never_seen_half_built_and_ends_equal<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    const BEFORE: i64 = 600;
    const BEHIND: i64 = 60;
    let scene = Arc::new(Scene::new(database));
    scene.write(0..BEFORE).await;
    let mut live = scene.live();
    live.status.wait_for(|s| s.totals().applied >= BEFORE as usize).await.expect("it runs");

    let ended = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (scene, ended) = (scene.clone(), ended.clone());
        async move {
            let mut next = BEFORE;
            while !ended.load(Ordering::Relaxed) {
                scene.write(next..next + 1).await;
                next += 1;
                // Slower than the read model follows, or a rebuild would never catch up.
                while DB::seen(&scene.pool).await.2 < next && !ended.load(Ordering::Relaxed) {}
                for _ in 0..3 {
                    DB::seen(&scene.pool).await;
                }
            }
            next
        }
    });
    let reader = tokio::spawn({
        let (scene, ended) = (scene.clone(), ended.clone());
        async move {
            let mut looks = 0;
            while !ended.load(Ordering::Relaxed) {
                let (keys, _, events) = DB::seen(&scene.pool).await;
                assert_eq!(keys, KEYS);
                assert!(events >= BEFORE - BEHIND, "{events} events");
                looks += 1;
            }
            looks
        }
    });
    let rebuild = scene.rebuild().swap_within(BEHIND as u64);
    let live_generation = within("the rebuild", rebuild.run(std::future::pending())).await.expect("rebuild");
    ended.store(true, Ordering::Relaxed);
    let written = writer.await.expect("no panic");
    assert!(reader.await.expect("every look saw a whole read model") > 0);

    assert_eq!(live_generation.get(), 2);
    scene.until_seen(&mut live.status, written).await;
    assert_eq!(DB::seen(&scene.pool).await, (KEYS, (0..written).sum::<i64>(), written));
    live.stop().await;
    let state = scene.generations.state().await.expect("state");
    assert_eq!((state.live, state.building), (live_generation, None));
    assert!(scene.generations.before(live_generation).await.expect("before").is_empty(), "the old one is dropped");
    let consumers = scene.log.consumers().await.expect("consumers");
    assert_eq!(consumers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["sums.g2"]);
    assert_eq!(DB::count(&database.pool, "projector_position").await, 1);
}

/// One that was stopped half-way changes nothing that queries see, and goes on where it was.
async fn an_interrupted_rebuild_goes_on<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    const EVENTS: i64 = 2_000;
    let scene = Scene::new(database);
    let mut live = scene.live();
    scene.write(0..EVENTS).await;
    scene.until_seen(&mut live.status, EVENTS).await;

    let first = scene.rebuild();
    let mut status = first.status();
    let stopped = first.run(async move {
        status.wait_for(|s| s.applied > 0).await.expect("it runs");
    });
    let stopped = within("the stop", stopped).await.expect_err("it was stopped");
    assert_eq!(stopped.kind(), RebuildErrorKind::Stopped);
    let state = scene.generations.state().await.expect("state");
    assert_eq!((state.live, state.building), (Generation::FIRST, Generation::new(2)));
    assert_eq!(DB::seen(&scene.pool).await.2, EVENTS, "queries still go to the first");

    let second = scene.rebuild();
    let status = second.status();
    let generation = within("the rebuild", second.run(std::future::pending())).await.expect("rebuild");
    assert_eq!(Some(generation), Generation::new(2), "the one that was begun");
    let status = status.borrow().clone();
    assert_eq!(status.phase, RebuildPhase::Done);
    assert!(status.applied < EVENTS as usize, "{} again", status.applied);
    scene.until_seen(&mut live.status, EVENTS).await;
    assert_eq!(DB::seen(&scene.pool).await.1, (0..EVENTS).sum::<i64>());
    live.stop().await;
}

/// What was handed to the projector and is not applied yet counts as still to come, though the source has no more.
async fn a_rebuild_waits_for_what_is_under_way<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    const EVENTS: i64 = 1_500;
    let scene = Scene::new(database);
    scene.write(0..EVENTS).await;
    scene.generations.prepare(Generation::FIRST, None).await.expect("prepare");
    let consumer = ConsumerName::parse("sums").expect("name");
    let all_at_once = Arc::new(LogSources::new(Arc::new(scene.log.clone()), consumer).batch(2_000));
    let rebuild = Rebuild::new(scene.generations.clone(), all_at_once).swap_within(10);
    within("the rebuild", rebuild.run(std::future::pending())).await.expect("rebuild");
    assert_eq!(DB::seen(&scene.pool).await, (KEYS, (0..EVENTS).sum::<i64>(), EVENTS));
}

/// A rebuild whose handler was wrong too is begun anew, and leaves nothing of what it had built.
async fn a_rebuild_can_be_begun_afresh<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    let scene = Scene::new(database);
    scene.write(0..100).await;
    let (second, interrupted) = scene.two_generations().await;
    let wrong = scene.generations.projection(second, Stage::Building);
    let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
    let events = [received(&Sequencer::default(), "wrong", 1_000)];
    wrong.apply(Step::new(&partition, None, &to, &events)).await.expect("apply");
    scene.generations.release(interrupted).await.expect("release");
    let rebuild = scene.rebuild().afresh().swap_within(0);
    let live = within("the rebuild", rebuild.run(std::future::pending())).await.expect("rebuild");
    assert_eq!(live, second.next(), "no number is used twice");
    assert_eq!(DB::seen(&scene.pool).await, (KEYS, (0..100).sum::<i64>(), 100));
    assert_eq!(DB::count(&database.pool, "projector_position").await, 1, "nothing of the one begun is left");
    let consumers = scene.log.consumers().await.expect("consumers");
    assert_eq!(consumers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["sums.g3"]);
}

/// One that died between its swap and the end has only to be cleared up.
async fn a_rebuild_that_died_after_its_swap_is_finished<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    let scene = Scene::new(database);
    let (second, interrupted) = scene.two_generations().await;
    scene.generations.swap(second, interrupted).await.expect("swap");
    scene.generations.release(interrupted).await.expect("release");
    let live = within("the rebuild", scene.rebuild().run(std::future::pending())).await.expect("rebuild");
    assert_eq!(live, second, "no third");
    assert!(scene.generations.before(second).await.expect("before").is_empty());
}

/// A runner that still works on the old generation has no effect after the swap, and is told.
async fn a_retired_projection_has_no_effect<DB: Seen>(database: &Database<DB>)
where
    SumsOf: Handler<DB>,
{
    let scene = Scene::new(database);
    let generations = &scene.generations;
    let (second, rebuild) = scene.two_generations().await;
    let old = generations.projection(Generation::FIRST, Stage::Live);
    let (partition, log) = (Partition::new("p"), Sequencer::default());
    let at = |n: u32| SourcePosition::from_text(n.to_string());
    let step = async |from: Option<u32>, to: u32| {
        let events = [received(&log, "key", 1)];
        let from = from.map(at);
        old.apply(Step::new(&partition, from.as_ref(), &at(to), &events)).await.map_err(|error| error.kind())
    };
    step(None, 1).await.expect("apply");
    generations.swap(second, rebuild).await.expect("swap");
    generations.swap(second, rebuild).await.expect("once more");
    assert_eq!(step(Some(1), 2).await.expect_err("retired"), ProjectionErrorKind::Conflict);
    assert_eq!(old.position(&partition).await.expect_err("retired").kind(), ProjectionErrorKind::Retired);
    assert_eq!(step(None, 2).await.expect_err("retired"), ProjectionErrorKind::Conflict);
    assert_eq!(generations.before(second).await.expect("before"), [Generation::FIRST]);
    for _ in 0..2 {
        generations.discard(Generation::FIRST, rebuild).await.expect("discard");
    }
    assert_eq!(old.position(&partition).await.expect_err("dropped").kind(), ProjectionErrorKind::Retired);
    generations.prepare(Generation::FIRST, None).await.expect_err("it cannot come back");
    assert_eq!(DB::count(&database.pool, "projector_watermark").await, 0, "nothing of it is left");
}

on_every_database!(
    a_rebuild_is_never_seen_half_built_and_ends_equal,
    an_interrupted_rebuild_goes_on,
    a_rebuild_waits_for_what_is_under_way,
    a_rebuild_can_be_begun_afresh,
    a_rebuild_that_died_after_its_swap_is_finished,
    a_retired_projection_has_no_effect,
);
