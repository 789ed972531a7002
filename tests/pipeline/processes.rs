//! Relays as processes of their own on one log, killed, stopped, cut off and restarted at random, and their database too.

use std::{
    collections::HashMap,
    env,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use outbox_core::{event::Event, profile::Profile, relay::Relay, retry::Backoff};
use outbox_kafka::{KafkaPublisher, TopicSpec};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{PgPool, postgres::PgPoolOptions};
use test_services::{OwnPostgres, PostgresVersion, TcpProxy, kafka_bootstrap, unique};

use crate::support::{PARTITIONS, assert_first_deliveries_in_order, change, log_on, read_back};

const AGGREGATES: i64 = 100;
const WRITERS: i64 = 4;
const LEASE: Duration = Duration::from_secs(1);
/// Events read and not yet checkpointed, but for one page more: what one incident may repeat.
const WINDOW: usize = 500;
const BATCH: usize = 200;

/// What a relay process needs to know; set only for processes that this test starts.
const DATABASE: &str = "OUTBOX_RELAY_PROCESS_DATABASE";
const TOPIC: &str = "OUTBOX_RELAY_PROCESS_TOPIC";
const BROKERS: &str = "OUTBOX_RELAY_PROCESS_BROKERS";

/// Not a test by itself: the program of a relay process.
#[tokio::test]
async fn relay_process() {
    let (Ok(database), Ok(topic), Ok(brokers)) = (env::var(DATABASE), env::var(TOPIC), env::var(BROKERS)) else {
        return;
    };
    let pool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(1))
        .connect_lazy_with(database.parse().expect("an address"));
    let profile = profile_to(&topic);
    let log = outbox_sqlx::PostgresLog::builder(pool).profile(profile.clone()).build();
    let publisher = KafkaPublisher::builder(brokers).build().expect("publisher");
    let relay = Relay::builder(Arc::new(log), Arc::new(publisher), profile)
        .lease(LEASE)
        .poll(Duration::from_millis(50))
        .batch(BATCH)
        .window(WINDOW)
        .backoff(Backoff::new(Duration::from_millis(10), Duration::from_millis(300)))
        .build();
    relay.run(std::future::pending()).await.expect("a relay that waits for whatever is away");
}

fn profile_to(topic: &str) -> Profile {
    let topic = topic.to_owned();
    Profile::default().with_router(move |_: &Event| topic.clone())
}

struct RelayProcess {
    child: Child,
    proxy: TcpProxy,
}

impl RelayProcess {
    async fn start(database: &OwnPostgres, topic: &str) -> Self {
        let mut url: url::Url = database.url().parse().expect("url");
        let proxy = TcpProxy::start(url.socket_addrs(|| None).expect("address")[0]).await;
        url.set_port(Some(proxy.addr().port())).expect("port");
        let child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "processes::relay_process", "--nocapture"])
            .env(DATABASE, url.as_str())
            .env(TOPIC, topic)
            .env(BROKERS, kafka_bootstrap().await)
            .stdout(Stdio::null())
            .spawn()
            .expect("a relay process");
        Self { child, proxy }
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        let (_gone, _reaped) = (self.child.kill(), self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_overtaken_whatever_is_killed() {
    let seed: u64 = env::var("OUTBOX_TEST_SEED").ok().map_or_else(rand::random, |s| s.parse().expect("a number"));
    let seconds = env::var("OUTBOX_TEST_CHAOS_SECONDS").map_or(15, |s| s.parse().expect("a number"));
    println!("OUTBOX_TEST_SEED={seed} OUTBOX_TEST_CHAOS_SECONDS={seconds}");
    let mut database = OwnPostgres::create(PostgresVersion::V15).await;
    let pool = PgPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(Duration::from_secs(1))
        .connect_lazy_with(database.url().parse().expect("options"));
    sqlx::raw_sql(
        "CREATE TABLE agg (id bigint PRIMARY KEY, v bigint NOT NULL DEFAULT 0);
        INSERT INTO agg (id) SELECT generate_series(1, 100)",
    )
    .execute(&pool)
    .await
    .expect("aggregates");
    let topic = unique("processes");
    let log = log_on(pool.clone(), profile_to(&topic)).await;
    let publisher = KafkaPublisher::builder(kafka_bootstrap().await).build().expect("publisher");
    publisher.ensure_topics(&[TopicSpec::new(&topic, PARTITIONS, 1)]).await.expect("topic");

    let stop = AtomicBool::new(false);
    let written = AtomicUsize::new(0);
    let writing = futures_util::future::join_all((0..WRITERS).map(|writer| {
        let (pool, log, stop, written) = (&pool, &log, &stop, &written);
        async move {
            let mut random = StdRng::seed_from_u64(seed ^ (writer as u64 + 1));
            while !stop.load(Ordering::Relaxed) {
                // Whether a change was committed whose connection broke, the table knows in the end.
                if change(pool, log, random.random_range(1..=AGGREGATES)).await.is_ok() {
                    written.fetch_add(1, Ordering::Relaxed);
                }
                // A pace that leaves two cores room for the relays.
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    }));
    let chaos = async {
        let incidents = chaos(&mut database, &topic, seed, Duration::from_secs(seconds)).await;
        stop.store(true, Ordering::Relaxed);
        incidents
    };
    let (_, (relays, incidents)) = tokio::join!(writing, chaos);

    let changes = changes(&pool).await;
    let total = changes.values().sum::<i64>() as usize;
    assert!(total >= written.load(Ordering::Relaxed), "a committed change is gone");
    let told = read_back(&topic, total).await;
    let duplicates = assert_first_deliveries_in_order(&told, &changes);
    let bound = (WINDOW + BATCH) * incidents;
    println!(
        "{total} changes, {incidents} incidents: 0 lost, 0 inversions, {duplicates} duplicates of at most {bound}"
    );
    assert!(duplicates <= bound, "{duplicates} duplicates after {incidents} incidents");
    drop(relays);
}

/// Kills, stops, cuts and restarts for so long; returns the relays that run at the end, and how many incidents there
/// were in which a relay could lose what it knew.
async fn chaos(database: &mut OwnPostgres, topic: &str, seed: u64, time: Duration) -> (Vec<RelayProcess>, usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut relays = Vec::new();
    for _ in 0..3 {
        relays.push(RelayProcess::start(database, topic).await);
    }
    let end = Instant::now() + time;
    let mut incidents = 0;
    while Instant::now() < end {
        // Time is what this test is about: how long things stay broken, against the length of a lease.
        tokio::time::sleep(Duration::from_millis(random.random_range(200..1_500))).await;
        let victim = random.random_range(0..relays.len());
        match random.random_range(0..10) {
            0..=2 => {
                relays[victim] = RelayProcess::start(database, topic).await;
                incidents += 1;
            }
            3..=5 => {
                test_services::freeze(relays[victim].child.id());
                tokio::time::sleep(LEASE * random.random_range(1..=3) + LEASE / 2).await;
                test_services::thaw(relays[victim].child.id());
                incidents += 1;
            }
            6..=7 => {
                relays[victim].proxy.cut();
                tokio::time::sleep(LEASE * random.random_range(0..=2) + LEASE / 4).await;
                relays[victim].proxy.restore();
                incidents += 1;
            }
            8 if relays.len() < 4 => relays.push(RelayProcess::start(database, topic).await),
            8 => {
                relays.swap_remove(victim);
                incidents += 1;
            }
            _ => {
                database.kill();
                database.start().await;
                incidents += relays.len();
            }
        }
    }
    (relays, incidents)
}

async fn changes(pool: &PgPool) -> HashMap<i64, i64> {
    // The first connection may be one that broke.
    for _ in 0..10 {
        let rows: Result<Vec<(i64, i64)>, _> =
            sqlx::query_as("SELECT id, v FROM agg WHERE v > 0").fetch_all(pool).await;
        if let Ok(rows) = rows {
            return rows.into_iter().collect();
        }
    }
    panic!("the database does not answer");
}
