use std::future::Future;

use tokio::task::JoinHandle;

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
