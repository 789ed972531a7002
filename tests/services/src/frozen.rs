//! Stopping a process in its tracks, and letting it go on.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Stops a child of this program with SIGSTOP, and returns when each of its threads stands still: its connections stay
/// open, and nobody answers until [`thaw`].
///
/// The wait matters. The signal is given to one of the process' threads; until the kernel lets that one run, which on a
/// busy machine takes a while, the others go on answering.
///
/// # Panics
///
/// If it is not a child of this program, or has ended.
pub fn freeze(process: u32) {
    signal(process, Signal::STOP);
    // Its state is left to be read again: whoever started it waits for its end by the same way.
    let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let state = waitid(WaitId::Pid(pid(process)), options);
    assert!(matches!(state, Ok(Some(state)) if state.stopped()), "process {process} is not stopped but {state:?}");
}

/// Lets a frozen process go on as if nothing had happened, with SIGCONT.
///
/// # Panics
///
/// If it has ended.
pub fn thaw(process: u32) {
    signal(process, Signal::CONT);
}

fn signal(process: u32, signal: Signal) {
    let sent = kill_process(pid(process), signal);
    sent.unwrap_or_else(|error| panic!("process {process} gets no {signal:?}, it may have ended: {error}"));
}

fn pid(process: u32) -> Pid {
    process.try_into().ok().and_then(Pid::from_raw).expect("the id of a process")
}
