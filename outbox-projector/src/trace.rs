//! Spans that join the trace of whoever wrote the event.
//!
//! The projections of this crate open these spans, at level `INFO`:
//!
//! | Span | Around | Fields |
//! |---|---|---|
//! | `outbox.project` | a step | `projection`, `partition`, `events`: how many |
//! | `outbox.handle` | a call of `sql::Handler::handle`, or of [`Documents::change`](crate::external::Documents::change) | `event`: its id, `event_type`, `traceparent`: the producer's, when the event has one |
//!
//! A handler that takes many events at once has the first one only. The requests to a store of documents carry many events
//! at once: they are within the step's span. When no subscriber is interested, nothing is read or written for them.
//!
//! # Joining the producer's trace
//! This crate knows no tracing backend: a hook of yours joins the span. With
//! [tracing-opentelemetry](https://docs.rs/tracing-opentelemetry):
//!
//! ```text
//! fn join_trace(span: &tracing::Span, producer: &TraceParent) {
//!     let flags = if producer.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
//!     let (trace, parent) = (TraceId::from_bytes(producer.trace_id()), SpanId::from_bytes(producer.span_id()));
//!     let producer = SpanContext::new(trace, parent, flags, true, TraceState::default());
//!     // One trace from the request to its last effect. Where steps are to stay whole, link instead:
//!     // span.add_link(producer);
//!     let _disabled = span.set_parent(opentelemetry::Context::new().with_remote_span_context(producer));
//! }
//!
//! let projection = PostgresProjection::builder(pool, name, handler).link_traces(join_trace).build();
//! ```
//!
//! The other end, which puts `traceparent` into events, is `trace_context` of the logs in `outbox-sqlx`.

use std::future::Future;

use outbox_core::{
    event::{ReceivedEvent, TraceParent},
    projection::Step,
};
use tracing::{Instrument, Span, field};

/// Joins the span of an event to the place in the producer's trace that the event carries. Called once an event, before
/// the span is entered, and only when a subscriber records it. Called on the hot path: do not block.
pub type LinkTrace = fn(&Span, &TraceParent);

tokio::task_local! {
    /// A handler's default methods open the spans of its events, and know no projection.
    static LINK: LinkTrace;
}

/// Applies a step in its span.
pub(crate) async fn projecting<F: Future>(
    projection: &str,
    step: Step<'_>,
    link: Option<LinkTrace>,
    applying: F,
) -> F::Output {
    let span =
        tracing::info_span!("outbox.project", projection, partition = %step.partition, events = step.events.len());
    let applying = applying.instrument(span);
    match link {
        Some(link) => LINK.scope(link, applying).await,
        None => applying.await,
    }
}

/// The span of an event.
pub(crate) fn handling(received: &ReceivedEvent) -> Span {
    let event = &received.event;
    let span = tracing::info_span!(
        "outbox.handle",
        event = %event.id,
        event_type = event.event_type.as_str(),
        traceparent = field::Empty,
    );
    if span.is_disabled() {
        return span;
    }
    let header = event.headers.first(TraceParent::HEADER);
    let parent = header.and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(TraceParent::parse);
    if let Some(parent) = parent {
        span.record("traceparent", field::display(&parent));
        // Without a scope there is no hook.
        let _no_hook = LINK.try_with(|link| link(&span, &parent));
    }
    span
}
