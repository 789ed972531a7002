use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{FromRef, State},
    routing::get,
};
use serde::Serialize;

use super::{Found, SearchDocument, SearchIndex, SearchQuery};
use crate::http::{Problem, QueryPairs};

/// `GET /tutors/search`, as the original's search service answers it.
pub(crate) fn routes<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Arc<dyn SearchIndex>: FromRef<S>,
{
    Router::new().route("/tutors/search", get(search))
}

#[derive(Serialize)]
struct Answer {
    results: Vec<SearchDocument>,
    total: u64,
}

async fn search(State(index): State<Arc<dyn SearchIndex>>, query: QueryPairs) -> Result<Json<Answer>, Problem> {
    let query = SearchQuery::parse(&query).map_err(Problem::fields)?;
    let Found { documents, total } = index.search(&query).await?;
    Ok(Json(Answer { results: documents, total }))
}
