//! What the marketplace runs on: the same handlers and projections, embedded or with services.

#[cfg(feature = "embedded")]
mod embedded;
#[cfg(feature = "production")]
mod production;

use std::{path::PathBuf, sync::Arc};

use crate::{
    config::{Config, Shape},
    db::Db,
    http::AdminToken,
    pipeline::{Journeys, Stages, Workers},
    search::SearchIndex,
};

/// A running shape.
pub(crate) struct Parts {
    pub(crate) name: &'static str,
    pub(crate) db: Arc<Db>,
    pub(crate) index: Arc<dyn SearchIndex>,
    pub(crate) stages: Stages,
    pub(crate) workers: Workers,
    pub(crate) token: AdminToken,
    /// Where data is kept, when that is a directory of ours.
    pub(crate) data: Option<Kept>,
}

/// A data directory.
pub(crate) struct Kept {
    pub(crate) directory: PathBuf,
    pub(crate) token_file: PathBuf,
    /// Nothing had been in it.
    pub(crate) is_new: bool,
    /// Held as long as the parts.
    #[cfg(feature = "embedded")]
    _directory: crate::data_dir::DataDir,
}

/// Opens everything and starts what runs in the background.
pub(crate) async fn start(config: &Config, journeys: &Journeys) -> anyhow::Result<Parts> {
    match config.shape {
        #[cfg(feature = "embedded")]
        Shape::Embedded => embedded::start(config, journeys).await,
        #[cfg(feature = "production")]
        Shape::Production => production::start(config, journeys).await,
        #[cfg(not(feature = "embedded"))]
        Shape::Embedded => {
            anyhow::bail!("this program was built without the embedded shape: build it with --features embedded")
        }
        #[cfg(not(feature = "production"))]
        Shape::Production => {
            anyhow::bail!("this program was built without the production shape: build it with --features production")
        }
    }
}
