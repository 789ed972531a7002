//! What this process and the whole machine have used so far, and who listens where.

use rustix::time::{ClockId, clock_gettime};

/// Seconds of processor time of this process, ended threads included.
pub(crate) fn own_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds of processor time of everything that runs here, to a hundredth of a second; none where the system does not
/// say.
pub(crate) fn machine_seconds() -> Option<f64> {
    /// What the kernel counts in, whatever its clock is.
    const TICKS_A_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|&n| ticks.get(n)).sum();
    Some(busy as f64 / TICKS_A_SECOND)
}

/// Bytes of memory that this process has in use now, and the most it ever had; zero where the system does not say.
pub(crate) fn memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(1024 * line.split_whitespace().next()?.parse::<u64>().ok()?)
    };
    (bytes("VmRSS:").unwrap_or_default(), bytes("VmHWM:").unwrap_or_default())
}

/// The process on this machine that listens on a port of TCP; none where the system does not say.
pub(crate) fn listener(port: u16) -> Option<String> {
    let mine = format!(":{port:04X}");
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(|line| listening(line, &mine)).collect::<Vec<_>>())
        .collect();
    let has_it = |pid: &str| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let targets = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
        targets.into_iter().find(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|process| process.file_name().into_string().ok());
    pids.find(|pid| pid.bytes().all(|b| b.is_ascii_digit()) && has_it(pid).is_some())
}

/// What a descriptor of the socket of a line links to, if the line is about listening on this port.
fn listening(line: &str, port: &str) -> Option<String> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    (local.ends_with(port) && *state == LISTEN).then(|| format!("socket:[{inode}]"))
}
