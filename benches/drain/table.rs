use std::time::{Duration, Instant};

/// Events per second of every contestant, round by round.
#[derive(Default)]
pub(crate) struct Table(Vec<(&'static str, Vec<f64>)>);

impl Table {
    pub(crate) fn record(&mut self, contestant: &'static str, events: usize, took: Duration) {
        let rate = events as f64 / took.as_secs_f64();
        eprintln!("  {contestant:<36} {rate:>10.0}/s");
        match self.0.iter_mut().find(|(name, _)| *name == contestant) {
            Some((_, rates)) => rates.push(rate),
            None => self.0.push((contestant, vec![rate])),
        }
    }

    pub(crate) fn print(&self, title: &str, yardstick: &str) {
        println!("\n{title}\n");
        println!("| | median events/s | min – max | of \"{yardstick}\" |\n|---|---:|---:|---:|");
        let base = self.0.iter().find(|(name, _)| *name == yardstick).map(|(_, rates)| rates.as_slice());
        for (name, rates) in &self.0 {
            // Ratios are taken round by round: both sides of one then saw the same machine.
            let ratios: Vec<f64> = base.unwrap_or_default().iter().zip(rates).map(|(b, r)| r / b).collect();
            let (low, middle, high) = spread(rates);
            println!("| {name} | {middle:.0} | {low:.0} – {high:.0} | {:.0} % |", 100.0 * spread(&ratios).1);
        }
    }
}

fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
    (at(0), at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}

pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn took(&self) -> Duration {
        self.0.elapsed()
    }
}
