//! For how long the member is safe from being expelled, by its own clock.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Lease {
    length: Duration,
    renew_at: Instant,
    ends: Instant,
}

impl Lease {
    /// Given by a call made at `asked`: the log's clock began later.
    pub(super) fn new(length: Duration, asked: Instant) -> Self {
        Self { length, renew_at: asked + length / 3, ends: asked + length }
    }

    pub(super) fn renewed(&mut self, asked: Instant) {
        *self = Self::new(self.length, asked);
    }

    /// The renewal did not come through: soon again, whatever else waits for the log.
    pub(super) fn not_renewed(&mut self, pause: Duration) {
        self.renew_at = Instant::now() + pause.min(self.length / 6);
    }

    pub(super) fn renew_at(&self) -> Instant {
        self.renew_at
    }

    pub(super) fn runs(&self, now: Instant) -> bool {
        now < self.ends
    }

    /// How long one call may take of those that keep a renewal waiting.
    pub(super) fn call_limit(&self) -> Duration {
        (self.length / 3).max(Duration::from_secs(1))
    }
}
