//! Wrappers that fail on cue, for tests of what drives an adapter.

mod cues;
mod log;
mod projection;
mod publisher;

pub use log::{FaultyLog, LogOperation};
pub use projection::FaultyProjection;
pub use publisher::FaultyPublisher;
