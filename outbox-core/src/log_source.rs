//! A log as an [`EventSource`](crate::source::EventSource).
