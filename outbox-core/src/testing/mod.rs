//! Conformance suites, one per trait, and wrappers that fail on cue.
//!
//! An adapter's author implements a *harness*, which says how to make a fresh log, topic or store and how to look
//! into it, and instantiates the suite with one line in a test:
//!
//! ```text
//! outbox_core::outbox_log_suite!(postgres, Harness::fresh);       // LogHarness
//! outbox_core::publisher_suite!(kafka, Harness::fresh);           // PublisherHarness
//! outbox_core::source_suite!(kafka_source, Harness::fresh);       // SourceHarness
//! outbox_core::projection_suite!(read_model, Harness::fresh);     // ProjectionHarness
//! ```
//!
//! The first argument names the module that the tests go into, the second is an async function (or a closure that
//! returns a future) which makes one harness; every case gets its own. The crate that uses a macro needs `tokio` with
//! `macros` and `rt-multi-thread` among its dev-dependencies.
//!
//! A case is a plain async function that panics when the promise in its docstring is broken, so it can also be called
//! by hand. Cases that an adapter cannot pass by its nature are skipped by what it declares in its capabilities or its
//! harness, and say so on standard error.

#![allow(clippy::missing_panics_doc, reason = "a case panics when its promise is broken: that is its result")]

#[cfg(test)]
mod broken;
mod event;
mod faulty;
pub mod outbox_and_log;
pub mod projection;
pub mod publisher;
pub mod source;
mod suite;

pub use event::{SUITE_TYPE, Sequencer, number_of};
pub use faulty::{FaultyLog, FaultyProjection, FaultyPublisher, LogOperation};
pub use suite::PATIENCE;

// Compiles the page's code.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/writing-an-adapter.md")]
struct WritingAnAdapter;
