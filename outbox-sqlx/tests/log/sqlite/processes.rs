//! Several processes on one file, killed at any moment.

use std::{
    collections::{BTreeMap, HashSet},
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use outbox_core::{
    log::{
        Assignment, Claim, ConsumerName, EventLog as _, LogAdmin as _, LogError, LogErrorKind, MemberId,
        RetentionPolicy, Track,
    },
    outbox::Outbox as _,
};
use outbox_sqlx::SqliteLog;
use sqlx::SqlitePool;
use tokio::time::Instant;

use super::bed::connect;
use crate::support::{changed, consumer, version};

const ROLE: &str = "OUTBOX_TEST_SQLITE_ROLE";
const FOLDER: &str = "OUTBOX_TEST_SQLITE_FOLDER";
const AGGREGATES: i64 = 8;
const PATIENCE: Duration = Duration::from_mins(2);
/// A killed relay is missed for so long.
const LEASE: Duration = Duration::from_millis(900);
/// Other processes give no signal: their file is looked at so often.
const LOOK: Duration = Duration::from_millis(20);

/// Writers and relays are killed in turn and replaced; one relay also prunes. In the end everything that was committed
/// was delivered, and first deliveries of each aggregate are in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_processes_are_killed() {
    let folder = tempfile::tempdir().expect("folder");
    let pool = connect(&folder.path().join("log.db"), 2).await;
    let log = SqliteLog::builder(pool.clone()).migrate().await.expect("migrate");
    consumer(&log, "relay").await;
    sqlx::raw_sql(
        "CREATE TABLE agg (id INTEGER PRIMARY KEY, v INTEGER NOT NULL);
        INSERT INTO agg SELECT value, 0 FROM json_each('[1,2,3,4,5,6,7,8]')",
    )
    .execute(&pool)
    .await
    .expect("aggregates");

    let roles = ["writer", "relay", "writer", "relay"];
    let mut processes: Vec<Process> = roles.iter().map(|role| Process::start(role, folder.path())).collect();
    for turn in 0..12 {
        let known = deliveries(folder.path()).len();
        until(|| async { deliveries(folder.path()).len() >= known + 20 }).await;
        let next = turn % roles.len();
        processes[next] = Process::start(roles[next], folder.path());
    }
    for (process, role) in processes.iter_mut().zip(roles) {
        if role == "writer" {
            process.kill();
        }
    }
    let written: Vec<(i64, i64)> =
        sqlx::query_as("SELECT id, v FROM agg ORDER BY id").fetch_all(&pool).await.expect("aggregates");
    let committed: HashSet<(i64, i64)> = written.iter().flat_map(|(id, v)| (1..=*v).map(move |n| (*id, n))).collect();
    until(|| async { deliveries(folder.path()).iter().copied().collect::<HashSet<_>>().len() >= committed.len() })
        .await;
    drop(processes);

    let delivered = deliveries(folder.path());
    let mut newest: BTreeMap<i64, i64> = BTreeMap::new();
    let mut known = HashSet::new();
    for (aggregate, v) in delivered.iter().copied().filter(|delivery| known.insert(*delivery)) {
        let before = newest.insert(aggregate, v).unwrap_or(0);
        assert_eq!(v, before + 1, "aggregate {aggregate}: v{v} came after v{before}");
    }
    assert_eq!(known, committed, "what was delivered is not what was committed");
    eprintln!(
        "{} committed, {} delivered, {} left",
        committed.len(),
        delivered.len(),
        log.tail(None, 1_000_000).await.expect("tail").len()
    );
}

async fn until<F: Future<Output = bool>>(reached: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !reached().await {
        assert!(Instant::now() < deadline, "it does not go on");
        tokio::time::sleep(LOOK).await;
    }
}

/// This test program once more, in another role. Dropping kills it.
struct Process(Child);

impl Process {
    fn start(role: &str, folder: &Path) -> Self {
        let child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "sqlite::processes::play_a_role", "--nocapture"])
            .env(ROLE, role)
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("a process");
        Self(child)
    }

    fn kill(&mut self) {
        let (_gone, _reaped) = (self.0.kill(), self.0.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Nothing, unless it is one of the processes of the test above.
#[tokio::test]
async fn play_a_role() {
    let (Ok(role), Some(folder)) = (env::var(ROLE), env::var_os(FOLDER).map(PathBuf::from)) else { return };
    let pool = connect(&folder.join("log.db"), 2).await;
    let log = SqliteLog::builder(pool.clone()).open().await.expect("open");
    match role.as_str() {
        "writer" => writer(&log, &pool).await,
        _ => relay(&log, &folder).await,
    }
}

/// Every fifth transaction is rolled back.
async fn writer(log: &SqliteLog, pool: &SqlitePool) {
    for n in 1_i64.. {
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.expect("begin");
        let aggregate = n % AGGREGATES + 1;
        let v: i64 = sqlx::query_scalar("UPDATE agg SET v = v + 1 WHERE id = ?1 RETURNING v")
            .bind(aggregate)
            .fetch_one(&mut *tx)
            .await
            .expect("update");
        let _receipt = log.append(&mut tx, &[changed(aggregate, v)]).await.expect("append");
        if n % 5 == 0 { tx.rollback().await } else { tx.commit().await }.expect("end");
    }
}

async fn relay(log: &SqliteLog, folder: &Path) {
    let consumer = ConsumerName::parse("relay").expect("name");
    loop {
        let assignment = log.join(&consumer, MemberId::random(), Claim::Share, LEASE).await.expect("join");
        let ended = tenure(log, folder, assignment).await;
        // Somebody took over while this process got no turn of the processor.
        assert_eq!(ended.expect_err("a tenure has no other end").kind(), LogErrorKind::Fenced);
    }
}

async fn tenure(log: &SqliteLog, folder: &Path, assignment: Assignment) -> Result<(), LogError> {
    let Assignment { fence, mut tracks, .. } = assignment;
    let mut delivered = OpenOptions::new().append(true).create(true).open(folder.join("delivered")).expect("file");
    let mut renewed = Instant::now();
    loop {
        if renewed.elapsed() >= LEASE / 3 {
            renewed = Instant::now();
            let renewal = log.renew(&fence, LEASE).await?;
            tracks.extend(renewal.gained);
            if renewal.surplus > 0 {
                let given = split(&mut tracks, renewal.surplus);
                log.release(&fence, &given).await?;
            }
            log.prune(&RetentionPolicy::default().keep_events(20).steps(1)).await?;
        }
        let pages = log.read(&tracks, 50).await?;
        let mut came = false;
        for (track, page) in tracks.iter_mut().zip(pages) {
            track.cursor = page.next;
            came |= !page.events.is_empty();
            for event in &page.events {
                let (aggregate, v) = version(event);
                // A kill in the middle leaves a line without an end.
                delivered.write_all(format!("\n{aggregate} {v};").as_bytes()).expect("deliver");
            }
        }
        if came {
            log.checkpoint(&fence, &tracks).await?;
        } else {
            // Nobody rings across processes.
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Takes so many lanes away from the tracks.
fn split(tracks: &mut Vec<Track>, mut surplus: u32) -> Vec<Track> {
    let mut given = Vec::new();
    for track in tracks.iter_mut() {
        let lanes = track.lanes.iter().take(surplus as usize).collect();
        given.push(Track { cursor: track.cursor.clone(), lanes });
        track.lanes = track.lanes.difference(lanes);
        surplus -= lanes.len();
    }
    tracks.retain(|track| !track.lanes.is_empty());
    given.retain(|track| !track.lanes.is_empty());
    given
}

/// Aggregate and version of each delivery, in order.
fn deliveries(folder: &Path) -> Vec<(i64, i64)> {
    let text = fs::read_to_string(folder.join("delivered")).unwrap_or_default();
    let parse = |line: &str| {
        let (aggregate, v) = line.strip_suffix(';')?.split_once(' ')?;
        Some((aggregate.parse().ok()?, v.parse().ok()?))
    };
    text.lines().filter_map(parse).collect()
}
