//! Contestants: the relay and the bare loops beside it, each in a process of its own, so that processor time and memory
//! are its own too. Benches use a part of them each.

mod child;
mod gauge;
mod ideal;
pub(crate) mod log;
mod producer;
mod relay;
mod same_message;
mod scan;
pub(crate) mod topic;

use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

pub(crate) use self::{
    child::run_as_contestant,
    gauge::{Moment, Outcome},
};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Rows of a page, and with that events of a checkpoint, of the bare loops.
const PAGE: i64 = 5_000;

/// What a process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) contestant: Contestant,
    /// The database with the log.
    pub(crate) database: String,
    pub(crate) schema: String,
    /// Where to, if anywhere.
    pub(crate) topic: String,
    /// How many events to carry before it ends.
    pub(crate) events: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Contestant {
    /// Reads pages and drops them.
    Scan,
    /// Sends the same payload from memory.
    Produce,
    /// Reads pages, sends them, records one checkpoint a page.
    Ideal(Carries),
    Relay(RelaySettings),
}

/// What a bare loop sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Carries {
    /// Key and payload as stored.
    Payload,
    /// The very message that the relay sends: envelope and headers.
    Message,
}

/// The settings of a relay that differ from the defaults.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RelaySettings {
    /// Acknowledges everything at once instead of sending it.
    pub(crate) null: bool,
    /// Sends two headers instead of seven.
    pub(crate) lean: bool,
    pub(crate) batch: Option<usize>,
    pub(crate) window: Option<usize>,
    pub(crate) lane_in_flight: Option<usize>,
    /// `linger.ms` of the publisher.
    pub(crate) linger: Option<String>,
    /// So many relays share the lanes when the clock is started; none: one, from a cold start.
    pub(crate) relays: Option<usize>,
    /// The consumer to go on with; none: a new one, from the beginning.
    pub(crate) consumer: Option<String>,
}

const TASK: &str = "OUTBOX_BENCH_TASK";

impl Task {
    /// Lets a process do it.
    pub(crate) async fn run(&self) -> Result<Outcome> {
        let child = Command::new(std::env::current_exe()?)
            .env(TASK, serde_json::to_string(self)?)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            return Err(format!("{:?} ended with {}", self.contestant, output.status).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
