//! The relay with in-memory adapters that fail on cue. Time is tokio's, so pauses cost nothing.

mod answers;
mod failures;
mod idle;
mod parking;
mod pausing;
mod publishing;
mod sharing;
mod stuck;
mod support;
mod watching;
mod zombies;
