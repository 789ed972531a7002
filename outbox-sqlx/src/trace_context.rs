//! Joining events to the trace of whoever appends them.

use std::borrow::Cow;

use outbox_core::event::{NewEvent, TraceParent};

/// Tells the place of the current span, if there is one. Called once an append, on the appending task.
pub type CurrentTrace = fn() -> Option<TraceParent>;

/// The events with the header `traceparent`, where a hook is set and says one.
pub(crate) fn joined(events: &[NewEvent], current: Option<CurrentTrace>) -> Cow<'_, [NewEvent]> {
    match current.and_then(|current| current()) {
        Some(parent) if !events.is_empty() => {
            events.iter().map(|event| event.clone().with_trace_parent(&parent)).collect()
        }
        _ => Cow::Borrowed(events),
    }
}
