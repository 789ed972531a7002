//! A rebuild in a SQLite file, which has one writer at a time.

use async_trait::async_trait;
use outbox_core::source::{EventSource, SourceError};
use outbox_projector::rebuild::Sources;
use sqlx::Sqlite;
use tokio::sync::Notify;

use super::{super::database::fresh, *};

const LONG: Duration = Duration::from_hours(1);

/// A rebuild that applies one step right behind the other still renews its claim: it waits for the step at hand, and
/// not until it happens to find the file free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_renewed_between_two_steps() {
    const STEPS: u32 = 1_500;
    let database = fresh::<Sqlite>().await;
    let scene = Scene::new(&database);
    let (second, rebuild) = scene.two_generations().await;
    let projection = scene.generations.projection(second, Stage::Building);
    let log = Sequencer::default();
    let steps: Vec<Vec<_>> = (0..STEPS).map(|_| (0..100).map(|n| received(&log, "key", n)).collect()).collect();
    let (applied, mut progress) = watch::channel(0);
    let applying = tokio::spawn(async move {
        let partition = Partition::new("p");
        let mut from = None;
        for events in steps {
            if applied.is_closed() {
                return;
            }
            let to = SourcePosition::from_text((*applied.borrow() + 1).to_string());
            projection.apply(Step::new(&partition, from.as_ref(), &to, &events)).await.expect("apply");
            from = Some(to);
            applied.send_modify(|steps| *steps += 1);
        }
        panic!("{STEPS} steps were not enough");
    });
    for _ in 0..20 {
        within("a step", progress.changed()).await.expect("it goes on");
        let before = *progress.borrow_and_update();
        within("an answer", scene.generations.renew(rebuild, Duration::from_secs(15))).await.expect("renewed");
        let waited_for = *progress.borrow_and_update() - before;
        assert!(waited_for <= 50, "{waited_for} steps: without its turn it waited for hundreds");
    }
    drop(progress);
    within("the end", applying).await.expect("no panic");
    database.tear_down().await;
}

/// Nobody could renew it meanwhile, so whoever waits to write finds it still held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_counts_anew_from_the_end_of_a_discard() {
    let database = fresh::<Sqlite>().await;
    let scene = Scene::new(&database);
    let (second, rebuild) = scene.two_generations().await;
    scene.generations.renew(rebuild, Duration::ZERO).await.expect("up to now");
    scene.generations.discard(second, rebuild).await.expect("discard");
    let other = scene.generations.claim(Uuid::now_v7(), LONG).await;
    assert_eq!(other.expect_err("refused").kind(), RebuildErrorKind::Busy);
    database.tear_down().await;
}

/// Rows under the name of the second generation.
async fn keep(database: &Database<Sqlite>, rows: i64) {
    let sql = "INSERT INTO projector_watermark (projection, log_id, aggregate_type, ordering_key, sequence) \
               WITH RECURSIVE keys(key) AS (SELECT 1 UNION ALL SELECT key + 1 FROM keys WHERE key < $1) \
               SELECT 'sums.g2', 'log', 'Tutor', key, 1 FROM keys";
    sqlx::query(sql).bind(rows).execute(&database.pool).await.expect("rows");
}

/// What another would do at the worst moment, in the middle of a piece.
async fn when_rows_go(database: &Database<Sqlite>, change: &str) {
    let sql = format!("CREATE TRIGGER meanwhile AFTER DELETE ON projector_watermark BEGIN {change}; END");
    sqlx::query(AssertSqlSafe(sql)).execute(&database.pool).await.expect("a trigger");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_without_a_claim_at_its_end_is_undone() {
    const KEYS: i64 = 6_000;
    for change in ["UPDATE projector_rebuild SET holder = 'another'", "DELETE FROM projector_rebuild"] {
        let database = fresh::<Sqlite>().await;
        let scene = Scene::new(&database);
        let (second, rebuild) = scene.two_generations().await;
        keep(&database, KEYS).await;
        when_rows_go(&database, change).await;
        let refused = scene.generations.discard(second, rebuild).await.expect_err("refused");
        assert_eq!(refused.kind(), RebuildErrorKind::Busy, "{change}");
        assert_eq!(database.count("projector_watermark").await, KEYS, "{change}");
        assert_eq!(database.count("projector_rebuild").await, 1, "{change}");
        database.tear_down().await;
    }
}

/// Each piece looks what the generation is by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_of_what_is_not_retired_removes_nothing() {
    const KEYS: i64 = 12_000;
    const A_PIECE: i64 = 5_000;
    let database = fresh::<Sqlite>().await;
    let scene = Scene::new(&database);
    let (second, rebuild) = scene.two_generations().await;
    keep(&database, KEYS).await;
    when_rows_go(&database, "UPDATE projector_generation SET stage = 'live' WHERE generation = 2").await;
    scene.generations.discard(second, rebuild).await.expect("what it may");
    assert_eq!(database.count("projector_watermark").await, KEYS - A_PIECE);
    assert_eq!(scene.generations.state().await.expect("state").live, second);
    database.tear_down().await;
}

/// However much is kept under its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_renewed_in_the_middle_of_a_discard() {
    const KEYS: i64 = 60_000;
    let database = fresh::<Sqlite>().await;
    let scene = Scene::new(&database);
    let (second, rebuild) = scene.two_generations().await;
    keep(&database, KEYS).await;
    let discarding = tokio::spawn({
        let generations = scene.generations.clone();
        async move { generations.discard(second, rebuild).await }
    });
    let mut left = Vec::new();
    while !discarding.is_finished() {
        within("an answer", scene.generations.renew(rebuild, LONG)).await.expect("renewed");
        left.push(database.count("projector_watermark").await);
    }
    discarding.await.expect("no panic").expect("discarded");
    assert_eq!(database.count("projector_watermark").await, 0);
    let between = left.iter().filter(|left| (1..KEYS).contains(left)).count();
    assert!(between > 1, "{left:?}");
    database.tear_down().await;
}

/// A table of which the drop takes its time.
struct Large;

impl SqlReadModel<Sqlite> for Large {
    fn create(&self, generation: Generation) -> String {
        SqlReadModel::<Sqlite>::create(&Sums, generation)
    }

    fn swap(&self, to: Generation) -> String {
        SqlReadModel::<Sqlite>::swap(&Sums, to)
    }

    fn discard(&self, generation: Generation) -> String {
        let slow =
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) SELECT max(i) FROM n;";
        format!("{slow} {}", SqlReadModel::<Sqlite>::discard(&Sums, generation))
    }

    fn handler(&self, generation: Generation, stage: Stage) -> Box<dyn Handler<Sqlite>> {
        Sums.handler(generation, stage)
    }
}

/// Says when a consumer was forgotten: what is called next is the discard.
struct Told {
    sources: Arc<LogSources>,
    forgotten: Arc<Notify>,
}

#[async_trait]
impl Sources for Told {
    fn open(&self, generation: Generation, stage: Stage) -> Result<Box<dyn EventSource>, SourceError> {
        self.sources.open(generation, stage)
    }

    async fn forget(&self, generation: Generation) -> Result<(), SourceError> {
        self.sources.forget(generation).await?;
        self.forgotten.notify_one();
        Ok(())
    }
}

/// The rebuild's clock jumps while the file is locked by its own discard: no renewal is late then that another could
/// have come before. On one thread, so that the discard has begun when this test hears of it.
#[tokio::test]
async fn a_rebuild_goes_on_after_a_discard_that_was_longer_than_its_claim() {
    let database = fresh::<Sqlite>().await;
    let scene = Scene::new(&database);
    scene.write(0..100).await;
    let (second, interrupted) = scene.two_generations().await;
    scene.generations.release(interrupted).await.expect("release");
    let name = ProjectionName::parse("sums").expect("name");
    let generations = Arc::new(SqlGenerations::new(database.pool.clone(), name, Large).expect("a short name"));
    let forgotten = Arc::new(Notify::new());
    let sources = Arc::new(Told { sources: scene.sources.clone(), forgotten: forgotten.clone() });
    let rebuild = Rebuild::new(generations, sources).afresh().swap_within(0);
    let rebuilding = tokio::spawn(rebuild.run(std::future::pending()));
    within("it discards", forgotten.notified()).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(12)).await;
    tokio::time::resume();
    assert_eq!(within("the rebuild", rebuilding).await.expect("no panic").expect("rebuilt"), second.next());
    assert_eq!(Sqlite::seen(&scene.pool).await, (KEYS, (0..100).sum::<i64>(), 100));
    database.tear_down().await;
}
