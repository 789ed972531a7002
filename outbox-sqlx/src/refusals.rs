//! Why a member or an operator is refused, in the same words for every database.

use outbox_core::log::{ConsumerName, Fence, LogError, LogErrorKind, Park};

pub(crate) fn fenced(fence: &Fence) -> LogError {
    let Fence { consumer, epoch, .. } = fence;
    let message = format!("epoch {epoch} of consumer {consumer} is over, or the lanes are not its own: join again");
    LogError::new(LogErrorKind::Fenced, message)
}

pub(crate) fn unknown(consumer: &ConsumerName) -> LogError {
    let message = format!("consumer {consumer} was never registered; call `register` first");
    LogError::new(LogErrorKind::UnknownConsumer, message)
}

pub(crate) fn no_such_event(park: &Park) -> LogError {
    let message = format!("the log has no event with sequence {} in lane {}", park.sequence, park.lane);
    LogError::new(LogErrorKind::Corrupt, message)
}

/// # Errors
/// [`LogErrorKind::BadName`] when a reason says nothing.
pub(crate) fn check_reason(reason: &str) -> Result<(), LogError> {
    if reason.trim().is_empty() {
        let message = "an event is only given up for a reason; say why";
        return Err(LogError::new(LogErrorKind::BadName, message));
    }
    Ok(())
}
