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

/// How often an event that the destination refuses is tried again by itself, and when.
///
/// Only failures that are the event's own count; a destination that is away is waited for without end. Default: 5
/// attempts, the first included, with waits of up to 1 s growing to 5 min.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    attempts: u32,
    backoff: Backoff,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new(5, Backoff::new(Duration::from_secs(1), Duration::from_mins(5)))
    }
}

impl RetryPolicy {
    /// At most so many attempts, the first included; the waits between them by `backoff`.
    #[must_use]
    pub const fn new(attempts: u32, backoff: Backoff) -> Self {
        Self { attempts, backoff }
    }

    /// One attempt: what is refused waits until somebody asks for it.
    #[must_use]
    pub const fn never() -> Self {
        Self::new(1, Backoff::new(Duration::ZERO, Duration::ZERO))
    }

    /// A random wait before the next attempt of an event that was tried so many times; `None`: no further attempt.
    pub fn retry_in(&self, attempts: u32, random: &mut (impl Rng + ?Sized)) -> Option<Duration> {
        (attempts < self.attempts).then(|| self.backoff.delay(attempts.saturating_sub(1), random))
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

    #[test]
    fn retries_end_with_the_last_attempt() {
        let policy = RetryPolicy::new(3, Backoff::new(Duration::from_secs(1), Duration::from_mins(1)));
        let mut random = rand::rng();
        assert!(policy.retry_in(1, &mut random).is_some_and(|wait| wait <= Duration::from_secs(1)));
        assert!(policy.retry_in(2, &mut random).is_some_and(|wait| wait <= Duration::from_secs(2)));
        assert_eq!(policy.retry_in(3, &mut random), None);
        assert_eq!(RetryPolicy::never().retry_in(1, &mut random), None);
    }
}
