//! The crates together, on real services: what is committed arrives, in order, whatever is killed in between.

mod embedded;
mod kafka;
mod outage;
mod processes;
mod shutdown;
mod support;
