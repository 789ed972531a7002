//! How much is still to come, asked without standing still over it.

use std::time::Duration;

use chrono::Utc;
use outbox_core::{
    error::chain,
    source::{EventSource, Partition},
};
use tokio::time::{Instant, timeout};

use super::{
    seat::{Phase, Seat},
    seats::Seats,
};

/// Whose turn it is to be asked for, and when. A source does one thing at a time, so while it is asked nothing is
/// delivered or committed: partitions take turns, and between two turns everything else is done.
pub(super) struct LagTurns {
    pub(super) at: Instant,
    last: Option<Partition>,
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// At least so many times as long as an answer took, the source is not asked again: however slow a broker is, and
/// however many partitions there are, at most a tenth of the time goes into it.
const REST: u32 = 9;

/// Whatever is asked for: a pause that a timer can tell.
const SHORTEST: Duration = Duration::from_millis(1);

impl LagTurns {
    pub(super) fn new(every: Duration) -> Self {
        Self { at: Instant::now() + every, last: None }
    }
}

impl Seats {
    /// Asks for one partition. May be dropped.
    pub(super) async fn look_at_lag(&mut self) {
        let began = Instant::now();
        let turns = self.taken.iter().filter(|(_, seat)| is_asked_for(seat)).count();
        if let Some(partition) = self.whose_turn() {
            self.lags.last = Some(partition.clone());
            self.ask_for(&partition).await;
        }
        self.meters.lag(&self.status.borrow());
        let turns = u32::try_from(turns.max(1)).unwrap_or(u32::MAX);
        let pause = (self.settings.lag_every / turns).max(began.elapsed() * REST).max(SHORTEST);
        self.lags.at = Instant::now() + pause;
    }

    /// The one behind the one that was asked for last.
    fn whose_turn(&self) -> Option<Partition> {
        let asked_for = || self.taken.iter().filter(|(_, seat)| is_asked_for(seat)).map(|(partition, _)| partition);
        let next = asked_for().find(|partition| self.lags.last.as_ref().is_none_or(|last| *partition > last));
        next.or_else(|| asked_for().next()).cloned()
    }

    async fn ask_for(&mut self, partition: &Partition) {
        let Some(seat) = self.taken.get(partition) else { return };
        let asked = Instant::now();
        let answer = timeout(PATIENCE, self.source.lag(partition, seat.position.as_ref())).await;
        let (lag, problem) = match answer {
            // What the worker has not done yet counts too, whatever the source thinks it has handed out.
            Ok(Ok(lag)) => (lag.map(|lag| lag.max(seat.queued as u64)), None),
            Ok(Err(error)) => (None, Some(chain(&error))),
            Err(_elapsed) => (None, Some(format!("no answer within {PATIENCE:?}"))),
        };
        if let Some(error) = problem {
            tracing::debug!(%partition, error, "the lag is not known at the moment");
            self.meters.lag_failed();
        }
        self.status.send_if_modified(|status| {
            let shown = status.partitions.entry(partition.clone()).or_default();
            let before = (shown.lag, shown.waiting_since);
            shown.lag = lag;
            status.lag_round = shown.lag_asked.replace(asked).or(status.lag_round);
            shown.waiting_since = match lag {
                Some(0) => None,
                Some(_) => shown.waiting_since.or_else(|| Some(Utc::now())),
                None => shown.waiting_since,
            };
            before != (shown.lag, shown.waiting_since)
        });
    }
}

fn is_asked_for(seat: &Seat) -> bool {
    matches!(seat.phase, Phase::Running | Phase::Held)
}
