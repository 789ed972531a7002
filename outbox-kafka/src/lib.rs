#![doc = include_str!("../README.md")]

mod client_log;
mod headers;
pub mod publisher;
mod settings;
pub mod source;
pub mod topics;

pub use publisher::KafkaPublisher;
pub use source::KafkaSource;
pub use topics::{TopicPolicy, TopicSpec};
