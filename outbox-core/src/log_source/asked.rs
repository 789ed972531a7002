use std::{future::Future, time::Duration};

use tokio::{task::JoinHandle, time::timeout};

use crate::log::{LogError, LogErrorKind};

/// Something the log was asked, which goes on whether somebody waits for the answer or not, until this is dropped.
pub(super) struct Asked<T>(JoinHandle<Result<T, LogError>>);

impl<T: Send + 'static> Asked<T> {
    pub(super) fn of(question: impl Future<Output = Result<T, LogError>> + Send + 'static) -> Self {
        Self(tokio::spawn(question))
    }

    pub(super) async fn wait(&mut self) -> Result<T, LogError> {
        (&mut self.0).await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(stopped) => {
                let message = "the runtime is shutting down";
                Err(LogError::new(LogErrorKind::Unavailable, message).with_source(stopped))
            }
        })
    }
}

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the log answers, within this time: a connection that hangs must not keep the next try from being made.
pub(super) async fn in_time<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, LogError>>,
) -> Result<T, LogError> {
    let late = |_| LogError::new(LogErrorKind::Unavailable, "the log did not answer in time");
    timeout(patience, answer).await.map_err(late)?
}
