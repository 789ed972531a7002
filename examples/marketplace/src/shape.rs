//! What the marketplace runs on: the same handlers and projections, embedded or with services.

#[cfg(feature = "embedded")]
mod embedded;
#[cfg(feature = "production")]
mod production;

use std::{path::PathBuf, sync::Arc};

use outbox_core::profile::Decoder;
use outbox_projector::dead_letters::Replayable;

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

/// What the dead letters of the search index are replayed into, with nothing else running.
pub(crate) struct OpenIndex {
    pub(crate) db: Arc<Db>,
    pub(crate) projection: Box<dyn Replayable>,
    /// Reads the records that the projection's source delivers.
    pub(crate) decoder: Arc<dyn Decoder>,
    /// Held as long as the index is open.
    #[cfg(feature = "embedded")]
    _directory: Option<crate::data_dir::DataDir>,
}

/// Opens everything and starts what runs in the background.
pub(crate) async fn start(config: &Config, journeys: &Journeys) -> anyhow::Result<Parts> {
    of_shape!(start(config, journeys))
}

/// Opens the database alone, of a marketplace of this version that was there before, and changes nothing.
pub(crate) async fn open_database(config: &Config) -> anyhow::Result<Arc<Db>> {
    of_shape!(open_database(config))
}

/// Opens the database and the search index, of a marketplace of this version that was there before. Begins nothing anew
/// and brings nothing up to date: what does not fit is refused.
pub(crate) async fn open_index(config: &Config) -> anyhow::Result<OpenIndex> {
    of_shape!(open_index(config))
}

/// Calls a function of the shape that was chosen.
macro_rules! of_shape {
    ($function:ident($config:ident $(, $more:expr)?)) => {
        match $config.shape {
            #[cfg(feature = "embedded")]
            Shape::Embedded => embedded::$function($config $(, $more)?).await,
            #[cfg(feature = "production")]
            Shape::Production => production::$function($config $(, $more)?).await,
            #[cfg(not(feature = "embedded"))]
            Shape::Embedded => {
                anyhow::bail!("this program was built without the embedded shape: build it with --features embedded")
            }
            #[cfg(not(feature = "production"))]
            Shape::Production => {
                anyhow::bail!("this program was built without the production shape: build it with --features production")
            }
        }
    };
}
use of_shape;
