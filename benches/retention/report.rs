//! The figures as a table.

use std::time::Duration;

/// One call.
pub(crate) struct Step {
    pub(crate) from: u64,
    pub(crate) walked: u64,
    pub(crate) removed: u64,
    pub(crate) took: Duration,
    pub(crate) wal: i64,
}

pub(crate) fn heading() {
    println!(
        "| | ms per 5,000, start | middle | end | WAL kB per 5,000, start | middle | end | all, s | events removed | append p50 / p99 before, ms | beside |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
}

pub(crate) fn report(
    name: &str,
    steps: &[Step],
    (before, beside): (&[Duration], &[Duration]),
    oldest_first: Option<Duration>,
) {
    let parts = [0, 1, 2].map(|part| {
        let width = (steps.len() / 10).max(1);
        let from = (steps.len().saturating_sub(width)) * part / 2;
        &steps[from..(from + width).min(steps.len())]
    });
    let time = parts.map(|part| median(part.iter().map(|step| per_step(step, step.took.as_secs_f64() * 1e3))));
    let wal = parts.map(|part| median(part.iter().map(|step| per_step(step, step.wal as f64 / 1e3))));
    let all: f64 = steps.iter().map(|step| step.took.as_secs_f64()).sum();
    let removed: u64 = steps.iter().map(|step| step.removed).sum();
    println!(
        "| {name} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} | {all:.1} | {removed} | {} | {} |",
        time[0],
        time[1],
        time[2],
        wal[0],
        wal[1],
        wal[2],
        percentiles(before),
        percentiles(beside),
    );
    if let Some(took) = oldest_first {
        println!(
            "| (`ORDER BY position LIMIT 1` from the oldest on, then: {:.0} ms) | | | | | | | | | | |",
            took.as_secs_f64() * 1e3
        );
    }
    let first = steps.first().map_or(0, |step| step.from);
    eprintln!("  {} calls from position {first}", steps.len());
}

fn per_step(step: &Step, figure: f64) -> f64 {
    figure * 5_000.0 / step.walked.max(1) as f64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn percentiles(took: &[Duration]) -> String {
    let mut sorted = took.to_vec();
    sorted.sort();
    let at =
        |share: f64| sorted.get((sorted.len() as f64 * share) as usize).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3);
    format!("{:.1} / {:.1}", at(0.5), at(0.99))
}

/// How busy the machine is.
pub(crate) fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}
