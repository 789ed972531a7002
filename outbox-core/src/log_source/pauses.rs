use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::retry::Backoff;

/// The pause before the next try, kept apart from the futures that wait for it, so that dropping one does not skip it.
#[derive(Default)]
pub(super) struct Pauses {
    failures: u32,
    until: Option<Instant>,
}

const DELAYS: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(2));

impl Pauses {
    /// Whether the last try failed.
    pub(super) fn is_growing(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn grow(&mut self) {
        self.until = Some(Instant::now() + DELAYS.delay(self.failures, &mut rand::rng()));
        self.failures = self.failures.saturating_add(1);
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
