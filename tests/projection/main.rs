//! Projectors that die, freeze, are rebalanced and cut off, between real PostgreSQL and real Kafka: what their read models
//! then say.

#[path = "../crash/page.rs"]
mod page;

#[path = "../broker/acl.rs"]
#[expect(dead_code, reason = "not every operation is forbidden here")]
mod acl;

mod document;
mod matrix;
mod model;
mod mortal;
mod outage;
mod poison;
mod process;
mod program;
mod random;
mod read_model;
mod rebalance;
mod rebuild;
mod repeats;
mod running;
mod scene;
mod shop;
mod slow;
mod topic;

use std::time::Duration;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_mins(1);
