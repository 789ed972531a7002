use axum::{
    Json, Router,
    extract::{FromRef, Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::{
    model::{Profile, Tutor},
    page::{PAGE_SIZE, Page, PageRequest},
    store::TutorStore,
};
use crate::{
    app::PublicUrl,
    http::{Admin, AdminToken, Id, JsonObject, Problem, QueryPairs, slashed},
};

/// `/api/tutors/…` for everybody, `/api/admin/tutors/…` for the admin.
pub(crate) fn routes<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    TutorStore: FromRef<S>,
    AdminToken: FromRef<S>,
    PublicUrl: FromRef<S>,
{
    let router = slashed(Router::new(), "/api/tutors/", get(list));
    let router = slashed(router, "/api/tutors/{id}/", get(one));
    let router = slashed(router, "/api/tutors/by-slug/{slug}/", get(one_by_slug));
    let router = slashed(router, "/api/admin/tutors/", post(create));
    slashed(router, "/api/admin/tutors/{id}/", patch(amend).delete(remove))
}

/// A tutor as the original shows it. What belongs to an account is not here yet.
#[derive(Serialize)]
struct TutorBody {
    id: i64,
    slug: String,
    full_name: String,
    avatar_url: String,
    headline: String,
    bio: String,
    hourly_rate: String,
    subjects: Vec<String>,
    is_verified: bool,
    rating: String,
    reviews_count: i64,
    location: String,
    formats: Vec<&'static str>,
    created_at: String,
}

#[derive(Serialize)]
struct DetailBody {
    #[serde(flatten)]
    tutor: TutorBody,
    updated_at: String,
}

#[derive(Serialize)]
struct PageBody {
    count: i64,
    next: Option<String>,
    previous: Option<String>,
    results: Vec<TutorBody>,
}

async fn list(
    State(store): State<TutorStore>,
    State(public): State<PublicUrl>,
    query: QueryPairs,
) -> Result<Json<PageBody>, Problem> {
    let request = PageRequest::parse(&query).map_err(Problem::fields)?;
    let Page { tutors, count } = store.page(&request).await?;
    if tutors.is_empty() && request.page > 1 {
        return Err(Problem::new(StatusCode::NOT_FOUND, "Invalid page."));
    }
    let link = |page: i64| format!("{}/api/tutors/?{}", public.as_str(), query.with("page", &page.to_string()));
    Ok(Json(PageBody {
        count,
        next: (request.page * PAGE_SIZE < count).then(|| link(request.page + 1)),
        previous: (request.page > 1).then(|| link(request.page - 1)),
        results: tutors.into_iter().map(TutorBody::from).collect(),
    }))
}

async fn one(State(store): State<TutorStore>, Id(id): Id) -> Result<Json<DetailBody>, Problem> {
    Ok(Json(store.by_id(id).await?.into()))
}

async fn one_by_slug(State(store): State<TutorStore>, Path(slug): Path<String>) -> Result<Json<DetailBody>, Problem> {
    if slug.contains('\0') {
        return Err(Problem::not_found("tutor"));
    }
    Ok(Json(store.by_slug(&slug).await?.into()))
}

async fn create(_: Admin, State(store): State<TutorStore>, body: JsonObject) -> Result<Response, Problem> {
    let profile = Profile::parse(&body.0).map_err(Problem::fields)?;
    let created = store.create(vec![profile]).await?;
    let tutor = created.into_iter().next().ok_or_else(Problem::internal)?;
    let location = format!("/api/tutors/{}/", tutor.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(DetailBody::from(tutor))).into_response())
}

async fn amend(
    _: Admin,
    State(store): State<TutorStore>,
    Id(id): Id,
    body: JsonObject,
) -> Result<Json<DetailBody>, Problem> {
    let tutor = store.amend(id, |profile| profile.amended(&body.0).map_err(Problem::fields)).await?;
    Ok(Json(tutor.into()))
}

async fn remove(_: Admin, State(store): State<TutorStore>, Id(id): Id) -> Result<StatusCode, Problem> {
    store.remove(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<Tutor> for TutorBody {
    fn from(tutor: Tutor) -> Self {
        let Tutor { id, slug, profile, created_at, .. } = tutor;
        Self {
            id,
            slug,
            formats: profile.format_names(),
            full_name: profile.full_name,
            avatar_url: profile.avatar_url,
            headline: profile.headline,
            bio: profile.bio,
            hourly_rate: profile.hourly_rate.to_string(),
            subjects: profile.subjects,
            is_verified: profile.is_verified,
            rating: profile.rating.to_string(),
            reviews_count: profile.reviews_count,
            location: profile.location,
            created_at: iso(created_at),
        }
    }
}

impl From<Tutor> for DetailBody {
    fn from(tutor: Tutor) -> Self {
        let updated_at = iso(tutor.updated_at);
        Self { tutor: tutor.into(), updated_at }
    }
}

fn iso(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
