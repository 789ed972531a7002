//! The page for people: search, and the pipeline at work.

mod for_people;
mod health;
mod live;
mod page;
mod static_files;

use std::sync::Arc;

use axum::{Router, extract::FromRef, routing::get};

use crate::{
    app::PublicUrl,
    db::Db,
    pipeline::{Live, Stop},
    search::SearchIndex,
};

/// `/`, `/live`, `/health` and the static files.
pub(crate) fn routes<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Arc<dyn SearchIndex>: FromRef<S>,
    Arc<Db>: FromRef<S>,
    Live: FromRef<S>,
    Stop: FromRef<S>,
    PublicUrl: FromRef<S>,
{
    Router::new()
        .route("/", get(page::index))
        .route("/live", get(live::stream))
        .route("/health", get(health::health))
        .route("/static/{file}", get(static_files::file))
}
