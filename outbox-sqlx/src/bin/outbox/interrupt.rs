//! Ending what would go on for ever.

use std::future::Future;

use crate::failure::Failure;

/// Runs until it ends, or until Ctrl-C or a request to terminate, which is a good end.
///
/// # Errors
/// What `endless` says.
pub(crate) async fn until_interrupted(endless: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        // First, so that the signals are listened to before anything is printed.
        biased;
        () = interrupted() => Ok(()),
        ended = endless => ended,
    }
}

#[cfg(unix)]
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    // Where a signal cannot be listened to, it ends the process in its own way.
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn interrupted() {
    let _listened = tokio::signal::ctrl_c().await;
}
