//! Processor time, which the load of the machine does not change.

/// Seconds of processor time that the living threads of a process have used; none where the system does not say.
pub(crate) fn cpu_seconds(pid: &str) -> Option<f64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(nanoseconds.sum::<u64>() as f64 / 1e9)
}
