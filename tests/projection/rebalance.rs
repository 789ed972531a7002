//! Projectors of one group that join, leave, are killed, and freeze for longer than their session and wake up as zombies,
//! all with steps in flight, while writers go on.

use std::{
    env,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use crate::{
    model::{Difference, Kind},
    process::ProjectorProcess,
    program::{SESSION, Seen},
    scene::letters,
    shop::{Feed, Shop},
};

/// For how long, in seconds. Default: 15.
const SECONDS: &str = "OUTBOX_TEST_SECONDS";
const SEED: &str = "OUTBOX_TEST_SEED";
const AT_MOST: usize = 4;
/// Of one event, at most: a step is nearly always in flight.
const TAKES: Duration = Duration::from_millis(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_with_its_position_survives_rebalances() {
    survive(Kind::Sql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_survives_rebalances() {
    survive(Kind::Inbox).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versioned_documents_survive_rebalances() {
    survive(Kind::Versioned).await;
}

async fn survive(kind: Kind) {
    let number = |name| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let (seed, seconds) = (number(SEED).unwrap_or_else(rand::random), number(SECONDS).unwrap_or(15));
    println!("{}: {SEED}={seed} {SECONDS}={seconds}", kind.name());
    let shop = Shop::open(Feed::Kafka).await;
    let writing = shop.write(seed).await;
    let mut group = Group::start(&shop, kind, seed).await;
    group.live_through(Duration::from_secs(seconds)).await;
    let copies = writing.stop().await;
    let in_time = shop.try_until_projected().await;
    assert!(in_time, "{SEED}={seed}: not all is projected; the projectors say {:#?}", group.said());
    let Counts { incidents, zombies, seen } = group.stop().await;

    let model = shop.model().await;
    let difference = model.compare(kind, shop.pool()).await;
    println!(
        "{}: {} events and {copies} copies, {incidents} incidents, {zombies} of them zombies: {difference}; {} steps met \
         a conflict, {} events came again",
        kind.name(),
        model.len(),
        seen.conflicts,
        seen.duplicates,
    );
    assert_eq!(difference, Difference::default(), "{SEED}={seed}");
    assert_eq!(letters(&shop).await, model.poison, "{SEED}={seed}");
    assert!(zombies > 0, "a zombie is what this is about");
    shop.close().await;
}

/// What happened, and what the processes said of themselves in all.
#[derive(Default)]
struct Counts {
    incidents: usize,
    zombies: usize,
    seen: Seen,
}

impl Counts {
    fn add(&mut self, seen: &Seen) {
        self.seen.conflicts += seen.conflicts;
        self.seen.duplicates += seen.duplicates;
    }
}

/// The projectors of one consumer group.
struct Group<'a> {
    shop: &'a Shop,
    kind: Kind,
    awake: Vec<ProjectorProcess>,
    /// With the time to wake up.
    frozen: Vec<(Instant, ProjectorProcess)>,
    leaving: JoinSet<Seen>,
    random: StdRng,
    counts: Counts,
}

impl<'a> Group<'a> {
    /// Three that share the partitions and are at work.
    async fn start(shop: &'a Shop, kind: Kind, seed: u64) -> Self {
        let start = || ProjectorProcess::slow(shop, kind, TAKES);
        let mut awake = vec![start(), start(), start()];
        for process in &mut awake {
            process.until("it is at work", |seen| seen.applied > 0).await;
        }
        let random = StdRng::seed_from_u64(seed);
        Self { shop, kind, awake, frozen: Vec::new(), leaving: JoinSet::new(), random, counts: Counts::default() }
    }

    async fn live_through(&mut self, time: Duration) {
        let end = Instant::now() + time;
        self.freeze();
        while Instant::now() < end {
            // Time is what this test is about: things happen in the middle of a rebalance, and after it.
            let pause = self.random.random_range(200..1_500);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.wake(Instant::now());
            match self.random.random_range(0..10) {
                0..=3 if self.awake.len() + self.frozen.len() < AT_MOST => self.join(),
                4..=5 if self.awake.len() > 1 => self.leave(),
                6..=7 if self.awake.len() > 1 => self.kill().await,
                8..=9 if self.awake.len() > 1 => self.freeze(),
                _ => {}
            }
        }
        let last = self.frozen.iter().map(|(at, _)| *at).max();
        if let Some(last) = last {
            tokio::time::sleep_until(last.into()).await;
            self.wake(last);
        }
    }

    fn join(&mut self) {
        self.counts.incidents += 1;
        self.awake.push(ProjectorProcess::slow(self.shop, self.kind, TAKES));
    }

    fn leave(&mut self) {
        self.counts.incidents += 1;
        let process = self.one();
        self.leaving.spawn(process.stops());
    }

    async fn kill(&mut self) {
        self.counts.incidents += 1;
        let process = self.one();
        self.counts.add(&process.seen());
        process.killed().await;
    }

    /// For longer than its session.
    fn freeze(&mut self) {
        self.counts.incidents += 1;
        self.counts.zombies += 1;
        let process = self.one();
        process.freezes();
        let time = SESSION + Duration::from_millis(self.random.random_range(500..3_000));
        self.frozen.push((Instant::now() + time, process));
    }

    fn wake(&mut self, until: Instant) {
        for (_, process) in self.frozen.extract_if(.., |(at, _)| *at <= until) {
            process.wakes();
            self.awake.push(process);
        }
    }

    fn one(&mut self) -> ProjectorProcess {
        let index = self.random.random_range(0..self.awake.len());
        self.awake.swap_remove(index)
    }

    fn said(&self) -> Vec<Seen> {
        self.awake.iter().map(ProjectorProcess::seen).collect()
    }

    async fn stop(mut self) -> Counts {
        for process in self.awake {
            self.leaving.spawn(process.stops());
        }
        while let Some(seen) = self.leaving.join_next().await {
            self.counts.add(&seen.expect("it stops in good order"));
        }
        self.counts
    }
}
