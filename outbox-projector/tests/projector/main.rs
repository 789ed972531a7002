//! The runner and the SQL projections, on real databases.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests fail by panicking")]

mod dead_letters;
mod external;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod inbox;
mod rebuild;
mod runner;
mod sharing_lanes;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
mod straight_from_the_log;
mod support;
mod typed;
