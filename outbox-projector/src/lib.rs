#![cfg_attr(feature = "postgres", doc = include_str!("../README.md"))]
#![cfg_attr(not(feature = "postgres"), doc = "Idempotent projections of events. See the README.")]

pub mod dead_letters;
pub mod external;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod inbox;
pub mod rebuild;
mod runner;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod sql;
pub mod trace;
pub mod typed;

pub use runner::{
    LostPosition, PartitionState, PartitionStatus, Projector, ProjectorBuilder, ProjectorError, ProjectorErrorKind,
    ProjectorStatus, Undecodables,
};
