//! What a contestant costs: time, processor time of its process, of its sessions in the database and of the broker, memory.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use test_services::kafka_bootstrap;

use super::Result;
use crate::figures::{
    cpu::cpu_seconds,
    machine::{listener, machine_seconds, memory, own_seconds},
};

/// The name of the contestant's sessions.
pub(super) const APPLICATION: &str = "outbox-bench-contestant";

/// How often is looked how far it is.
const MOMENT: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    /// Seconds of processor time of its process.
    pub(crate) process: f64,
    /// Of its sessions in the database and of the broker, where they run on this machine.
    pub(crate) database: Option<f64>,
    pub(crate) broker: Option<f64>,
    /// How many processors all else kept busy meanwhile.
    pub(crate) others: Option<f64>,
    /// The most memory that the process had, in bytes.
    pub(crate) most_memory: u64,
    pub(crate) moments: Vec<Moment>,
}

/// How far it was.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Moment {
    pub(crate) seconds: f64,
    pub(crate) done: u64,
    pub(crate) memory: u64,
}

/// Not started yet.
pub(super) struct Gauge(PgPool);

/// Between start and end.
pub(super) struct Running {
    pool: PgPool,
    sessions: HashMap<String, f64>,
    process: f64,
    broker: Broker,
    machine: Option<f64>,
    begun: Instant,
    watch: Watch,
}

impl Gauge {
    /// `pool` holds all sessions of the contestant.
    pub(super) fn new(pool: PgPool) -> Self {
        Self(pool)
    }

    /// Starts the clock. `done` says how many events are.
    pub(super) async fn start(self, done: impl Fn() -> u64 + Send + 'static) -> Result<Running> {
        let sessions = sessions(&self.0).await?;
        let broker = Broker::find().await;
        let begun = Instant::now();
        Ok(Running {
            pool: self.0,
            sessions,
            process: own_seconds(),
            broker,
            machine: machine_seconds(),
            begun,
            watch: Watch::start(begun, done),
        })
    }
}

impl Running {
    pub(super) async fn end(self, events: u64) -> Result<Outcome> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let process = own_seconds() - self.process;
        let machine = machine_seconds().zip(self.machine).map(|(after, before)| after - before);
        // A session that was opened meanwhile counts from its beginning.
        let after = sessions(&self.pool).await?;
        let spent = after.iter().map(|(pid, after)| after - self.sessions.get(pid).copied().unwrap_or_default());
        let database: Option<f64> = (!after.is_empty()).then(|| spent.sum());
        let broker = self.broker.spent();
        let ours = process + database.unwrap_or_default() + broker.unwrap_or_default();
        let others = machine.map(|all| ((all - ours) / seconds).max(0.0));
        let moments = self.watch.stop()?;
        Ok(Outcome { events, seconds, process, database, broker, others, most_memory: memory().1, moments })
    }
}

/// Processor time of the contestant's sessions by process; empty when the server runs elsewhere.
async fn sessions(pool: &PgPool) -> Result<HashMap<String, f64>> {
    let mine = "SELECT pid::text FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1";
    let pids: Vec<String> = sqlx::query_scalar(mine).bind(APPLICATION).fetch_all(pool).await?;
    Ok(pids.into_iter().filter_map(|pid| cpu_seconds(&pid).map(|seconds| (pid, seconds))).collect())
}

/// The broker's process, and its processor time so far.
struct Broker(Option<(String, f64)>);

impl Broker {
    async fn find() -> Self {
        let servers = kafka_bootstrap().await;
        let port = servers.rsplit(':').next().and_then(|port| port.parse().ok());
        let process = port.and_then(listener);
        Self(process.and_then(|pid| cpu_seconds(&pid).map(|seconds| (pid, seconds))))
    }

    fn spent(&self) -> Option<f64> {
        let (pid, before) = self.0.as_ref()?;
        cpu_seconds(pid).map(|after| after - before)
    }
}

/// Looks now and then, from a thread of its own.
struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Moment>>,
}

impl Watch {
    fn start(begun: Instant, done: impl Fn() -> u64 + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let look = move || Moment { seconds: begun.elapsed().as_secs_f64(), done: done(), memory: memory().0 };
        let thread = thread::spawn(move || {
            let mut moments = vec![look()];
            while !ended.load(Ordering::Acquire) {
                thread::park_timeout(MOMENT);
                moments.push(look());
            }
            moments
        });
        Self { over, thread }
    }

    fn stop(self) -> Result<Vec<Moment>> {
        self.over.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().map_err(|_| "the watching thread panicked".into())
    }
}
