//! When transactions arrive: at random and independent of each other, at a mean rate.

use std::{
    thread,
    time::{Duration, Instant},
};

use rand::RngExt as _;

use crate::{
    Load,
    stamps::{Stage, Stamps},
};

/// The moments of all transactions of a load, since its beginning.
pub(crate) fn plan(load: Load) -> Vec<Duration> {
    let mean = load.burst as f64 / load.rate as f64;
    let mut random = rand::rng();
    let mut at = 0.0;
    let next = |_| {
        // The pauses of a Poisson process.
        at -= mean * (1.0 - random.random::<f64>()).ln();
        Duration::from_secs_f64(at)
    };
    (0..load.events() / load.burst).map(next).collect()
}

/// Calls `arrive` for the first event of each transaction, at its moment. Blocks until the last: a timer of the runtime
/// would come up to a millisecond late.
pub(crate) fn play(load: Load, stamps: &Stamps, mut arrive: impl FnMut(u64)) {
    let begin = Instant::now();
    let offset = begin.duration_since(stamps.begun());
    for (transaction, at) in (0..).zip(plan(load)) {
        if let Some(left) = (begin + at).checked_duration_since(Instant::now()) {
            thread::sleep(left);
        }
        let first = transaction * load.burst;
        for event in first..first + load.burst {
            stamps.stamp_at(event, Stage::Due, offset + at);
        }
        arrive(first);
    }
}
