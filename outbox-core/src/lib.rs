#![doc = include_str!("../README.md")]

pub mod error;
pub mod event;
pub mod log;
pub mod log_source;
pub mod memory;
pub mod outbox;
pub mod profile;
pub mod projection;
pub mod publisher;
pub mod relay;
pub mod retention;
pub mod retry;
pub mod source;
#[cfg(feature = "testing")]
pub mod testing;
pub mod wake;
