#![cfg_attr(feature = "postgres", doc = include_str!("../README.md"))]
#![cfg_attr(not(feature = "postgres"), doc = "Idempotent projections of events. See the README.")]

mod runner;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod sql;

pub use runner::{
    PartitionState, PartitionStatus, Projector, ProjectorBuilder, ProjectorError, ProjectorErrorKind, ProjectorStatus,
    Undecodables,
};
