use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Exponential, full jitter, and kept apart from the futures that wait for it, so that dropping one does not skip it.
#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(2);

    /// Whether the last try failed.
    pub(super) fn is_growing(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn grow(&mut self) {
        let ceiling = Self::FIRST.saturating_mul(1 << self.failures.min(20)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(Instant::now() + ceiling.mul_f64(rand::random_range(0.0..1.0)));
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) async fn pause(&mut self) {
        if let Some(until) = self.until {
            sleep_until(until).await;
            self.until = None;
        }
    }
}
