//! How long to wait before trying again.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Exponential backoff with full jitter: before try `n` (from 0) a random time between zero and
/// `min(cap, base · 2^n)`.
///
/// Full jitter spreads clients that failed together; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
/// Default: base 50 ms, cap 10 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(10))
    }
}

impl Backoff {
    /// A backoff that starts at up to `base` and grows to at most `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap }
    }

    /// The longest wait before try `attempt`, counted from 0.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// A random wait before try `attempt`, counted from 0.
    pub fn delay(&self, attempt: u32, random: &mut (impl Rng + ?Sized)) -> Duration {
        self.ceiling(attempt).mul_f64(random.random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_never_beyond() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let ceilings: Vec<u128> = (0..6).map(|n| backoff.ceiling(n).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.ceiling(u32::MAX), Duration::from_secs(1));
        for attempt in 0..100 {
            assert!(backoff.delay(attempt, &mut rand::rng()) <= backoff.ceiling(attempt));
        }
    }
}
