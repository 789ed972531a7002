use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{db::Db, http::Problem, search::SearchIndex};

const LIMIT: Duration = Duration::from_secs(3);

/// 200 when database and search index answer, 503 naming the one that does not.
pub(super) async fn health(
    State(db): State<Arc<Db>>,
    State(index): State<Arc<dyn SearchIndex>>,
) -> Result<Json<Value>, Problem> {
    let (database, search) = tokio::join!(timeout(LIMIT, db.ping()), timeout(LIMIT, index.ping()));
    if !matches!(database, Ok(Ok(()))) {
        return Err(Problem::unavailable("database"));
    }
    if !matches!(search, Ok(Ok(()))) {
        return Err(Problem::unavailable("search index"));
    }
    Ok(Json(json!({ "status": "ok", "database": "connected", "search": "connected" })))
}
