//! Figures of interleaved rounds, shared by the benches.

use std::time::{Duration, Instant};

/// One figure of every contestant, round by round.
#[derive(Default)]
pub(crate) struct Table(pub(crate) Vec<(String, Vec<f64>)>);

impl Table {
    /// Events per second.
    pub(crate) fn record(&mut self, contestant: impl Into<String>, events: usize, took: Duration) {
        self.record_figure(contestant, events as f64 / took.as_secs_f64());
    }

    pub(crate) fn record_figure(&mut self, contestant: impl Into<String>, figure: f64) {
        let contestant = contestant.into();
        eprintln!("  {contestant:<44} {figure:>12.1}");
        self.keep(contestant, figure);
    }

    /// As [`Table::record_figure`], without showing it.
    pub(crate) fn keep(&mut self, contestant: impl Into<String>, figure: f64) {
        let contestant = contestant.into();
        match self.0.iter_mut().find(|(name, _)| *name == contestant) {
            Some((_, figures)) => figures.push(figure),
            None => self.0.push((contestant, vec![figure])),
        }
    }

    /// `unit` says what the figures are.
    pub(crate) fn print(&self, title: &str, unit: &str, yardstick: &str) {
        println!("\n{title}\n");
        println!("| | median {unit} | min – max | of \"{yardstick}\" | min – max |\n|---|---:|---:|---:|---:|");
        let base = self.0.iter().find(|(name, _)| *name == yardstick).map(|(_, figures)| figures.as_slice());
        for (name, figures) in &self.0 {
            // Ratios are taken round by round: both sides of one then saw the same machine.
            let ratios: Vec<f64> = base.unwrap_or_default().iter().zip(figures).map(|(b, f)| 100.0 * f / b).collect();
            let (low, middle, high) = spread(figures);
            let (worst, ratio, best) = spread(&ratios);
            let digits = usize::from(middle.abs() < 1_000.0);
            println!(
                "| {name} | {middle:.digits$} | {low:.digits$} – {high:.digits$} | {ratio:.1} % | {worst:.1} – {best:.1} % |"
            );
        }
    }
}

/// The lowest, the median and the highest.
pub(crate) fn spread(values: &[f64]) -> (f64, f64, f64) {
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

/// A number from the environment.
pub(crate) fn number(name: &str, default: usize) -> Result<usize, String> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|e| format!("{name}={text}: {e}")),
        Err(_) => Ok(default),
    }
}

/// How busy the machine is.
pub(crate) fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}
