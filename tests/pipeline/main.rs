//! The crates together, on real services: what is committed arrives, in order, whatever is killed in between.

mod embedded;
mod history;
mod kafka;
mod moving;
mod outage;
mod processes;
mod shared_lanes;
mod shutdown;
mod support;
