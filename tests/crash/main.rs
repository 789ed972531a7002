//! Relay processes that die at a named step, or are told to stop, between a real database and real Kafka: what the topic
//! then says.

mod document;
mod matrix;
mod mortal;
mod page;
mod program;
mod relay_process;
mod scene;
mod shop;
mod store;
mod termination;
mod tiny_queue;
mod topic;
