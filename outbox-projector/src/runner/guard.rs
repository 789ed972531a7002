use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

use outbox_core::projection::{ProjectionError, ProjectionErrorKind};

/// What a projection answers; a panic of it is a failure of an event.
pub(crate) async fn guarded<T>(
    applying: impl Future<Output = Result<T, ProjectionError>>,
) -> Result<T, ProjectionError> {
    let mut applying = pin!(applying);
    // The future is not polled again after a panic, so nothing sees what it left behind.
    let polled =
        std::future::poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| applying.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(answer)) => Poll::Ready(answer),
            Err(panic) => {
                let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                let message = format!("the handler panicked: {said}");
                Poll::Ready(Err(ProjectionError::new(ProjectionErrorKind::Failed, message)))
            }
        });
    polled.await
}
