//! The time of day, on a clock that tests can pause.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// Tells the time of day by tokio's clock, and so follows it when a test pauses or advances it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    started: Instant,
    started_at: DateTime<Utc>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { started: Instant::now(), started_at: Utc::now() }
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        later(self.started_at, self.started.elapsed())
    }

    /// The end of this time from now, or of all times.
    pub(super) fn after(&self, wait: Duration) -> DateTime<Utc> {
        later(self.now(), wait)
    }
}

fn later(time: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    let by = TimeDelta::from_std(by).ok();
    by.and_then(|by| time.checked_add_signed(by)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
