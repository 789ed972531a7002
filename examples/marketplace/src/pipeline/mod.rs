//! What carries events from the log to the search index, and what there is to see of it.

mod journeys;
mod live;
mod observed;
mod stages;
mod workers;

pub(crate) use journeys::{Journey, Journeys};
pub(crate) use live::{Live, Snapshot};
pub(crate) use observed::ObservedProjection;
#[cfg(feature = "production")]
pub(crate) use observed::{ObservedGenerations, ObservedPublisher};
#[cfg(feature = "production")]
pub(crate) use stages::RelayStage;
pub(crate) use stages::{IndexStage, Stage, StageView, Stages};
pub(crate) use workers::{Stop, StopSender, Workers};
