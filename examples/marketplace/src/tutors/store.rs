//! Changing tutors: the row and its event in one transaction, always.

use std::{collections::HashSet, sync::Arc};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use outbox_core::{
    event::{Event, InvalidEvent, NewEvent},
    outbox::{AppendError, AppendErrorKind},
};
use sqlx::types::Json;

use super::{
    events,
    model::{Profile, Tutor, columns},
    page::{Page, PageRequest},
    slug,
};
use crate::{
    db::{Conn, Db, Tx, is_away, on},
    http::Problem,
    pipeline::Journeys,
};

/// The tutors of the database.
#[derive(Clone)]
pub(crate) struct TutorStore {
    db: Arc<Db>,
    journeys: Journeys,
}

/// Why a tutor could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("there is no such tutor")]
    NotFound,
    #[error("slugs made from {base:?} are taken faster than one can be found")]
    SlugContention { base: String },
    #[error(transparent)]
    Event(#[from] AppendError),
    #[error("database")]
    Database(#[from] sqlx::Error),
}

impl From<InvalidEvent> for StoreError {
    fn from(invalid: InvalidEvent) -> Self {
        Self::Event(invalid.into())
    }
}

impl TutorStore {
    pub(crate) fn new(db: Arc<Db>, journeys: Journeys) -> Self {
        Self { db, journeys }
    }

    /// All of them or none; their events go to the log in one append.
    pub(crate) async fn create(&self, profiles: Vec<Profile>) -> Result<Vec<Tutor>, StoreError> {
        let mut tx = self.db.begin().await?;
        let mut tutors = Vec::with_capacity(profiles.len());
        for profile in profiles {
            tutors.push(insert(&mut tx, profile).await?);
        }
        let events = tutors.iter().map(events::created).collect::<Result<Vec<_>, _>>()?;
        self.commit(tx, events).await?;
        Ok(tutors)
    }

    /// Changes what `change` changes. A profile that stays the same is not written and tells nobody anything.
    pub(crate) async fn amend<E: From<StoreError>>(
        &self,
        id: i64,
        change: impl FnOnce(&Profile) -> Result<Profile, E>,
    ) -> Result<Tutor, E> {
        let mut tx = self.db.begin().await.map_err(StoreError::from)?;
        let before = locked(&mut tx, id).await.map_err(StoreError::from)?.ok_or(StoreError::NotFound)?;
        let profile = change(&before.profile)?;
        if profile == before.profile {
            return Ok(before);
        }
        let tutor = Tutor { profile, updated_at: now(), ..before };
        update(&mut tx, &tutor).await.map_err(StoreError::from)?;
        let event = events::updated(&tutor).map_err(StoreError::from)?;
        self.commit(tx, vec![event]).await?;
        Ok(tutor)
    }

    pub(crate) async fn remove(&self, id: i64) -> Result<(), StoreError> {
        let mut tx = self.db.begin().await?;
        let deleted = on!(Tx, &mut tx, |c| sqlx::query("DELETE FROM tutors WHERE id = $1")
            .bind(id)
            .execute(c)
            .await
            .map(|done| done.rows_affected()))?;
        if deleted == 0 {
            return Err(StoreError::NotFound);
        }
        self.commit(tx, vec![events::deleted(id)?]).await
    }

    pub(crate) async fn by_id(&self, id: i64) -> Result<Tutor, StoreError> {
        let mut conn = self.db.read().await?;
        let found = on!(Conn, &mut conn, |c| sqlx::query_as(BY_ID).bind(id).fetch_optional(c).await)?;
        found.ok_or(StoreError::NotFound)
    }

    pub(crate) async fn by_slug(&self, slug: &str) -> Result<Tutor, StoreError> {
        let mut conn = self.db.read().await?;
        let found = on!(Conn, &mut conn, |c| sqlx::query_as(BY_SLUG).bind(slug).fetch_optional(c).await)?;
        found.ok_or(StoreError::NotFound)
    }

    /// A page and how many there are in all. Past the end the page is empty.
    pub(crate) async fn page(&self, request: &PageRequest) -> Result<Page, StoreError> {
        Ok(request.fetch(&self.db).await?)
    }

    pub(crate) async fn any(&self) -> Result<bool, StoreError> {
        let mut conn = self.db.read().await?;
        let first: Option<i64> =
            on!(Conn, &mut conn, |c| sqlx::query_scalar("SELECT id FROM tutors LIMIT 1").fetch_optional(c).await)?;
        Ok(first.is_some())
    }

    async fn commit(&self, mut tx: Tx, events: Vec<NewEvent>) -> Result<(), StoreError> {
        let receipt = self.db.append(&mut tx, &events).await?;
        tx.commit().await?;
        self.journeys.written(events.iter().map(NewEvent::event).map(Event::clone));
        receipt.committed();
        Ok(())
    }
}

const BY_ID: &str = concat!("SELECT ", columns!(), " FROM tutors WHERE id = $1");
#[cfg(feature = "production")]
const BY_ID_LOCKED: &str = concat!("SELECT ", columns!(), " FROM tutors WHERE id = $1 FOR UPDATE");
const BY_SLUG: &str = concat!("SELECT ", columns!(), " FROM tutors WHERE slug = $1");

const INSERT: &str = "INSERT INTO tutors (slug, full_name, avatar_url, headline, bio, subjects, hourly_rate_minor, \
     rating_hundredths, reviews_count, is_verified, location, formats, folded, created_at, updated_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14) \
     ON CONFLICT (slug) DO NOTHING RETURNING id";

const UPDATE: &str = "UPDATE tutors SET full_name = $2, avatar_url = $3, headline = $4, bio = $5, subjects = $6, \
     hourly_rate_minor = $7, rating_hundredths = $8, reviews_count = $9, is_verified = $10, location = $11, \
     formats = $12, folded = $13, updated_at = $14 WHERE id = $1";

/// How often a slug may be lost to somebody else between looking and inserting.
const SLUG_TRIES: usize = 20;

async fn insert(tx: &mut Tx, profile: Profile) -> Result<Tutor, StoreError> {
    let base = slug::base(&profile.full_name);
    let now = now();
    for _ in 0..SLUG_TRIES {
        let slug = slug::first_free(&base, &taken(tx, &base).await?);
        // A conflict does not break the transaction; on PostgreSQL it waits for whoever is inserting the same slug.
        let id: Option<i64> = on!(Tx, tx, |c| bind_profile!(sqlx::query_scalar(INSERT).bind(&slug), &profile, now)
            .fetch_optional(c)
            .await)?;
        if let Some(id) = id {
            return Ok(Tutor { id, slug, profile, created_at: now, updated_at: now });
        }
    }
    Err(StoreError::SlugContention { base })
}

async fn update(tx: &mut Tx, tutor: &Tutor) -> Result<(), sqlx::Error> {
    on!(Tx, tx, |c| bind_profile!(sqlx::query(UPDATE).bind(tutor.id), &tutor.profile, tutor.updated_at)
        .execute(c)
        .await
        .map(|_| ()))
}

/// Binds `$2` to `$14`.
macro_rules! bind_profile {
    ($query:expr, $profile:expr, $now:expr) => {{
        let profile: &Profile = $profile;
        $query
            .bind(&profile.full_name)
            .bind(&profile.avatar_url)
            .bind(&profile.headline)
            .bind(&profile.bio)
            .bind(Json(&profile.subjects))
            .bind(profile.hourly_rate.hundredths())
            .bind(profile.rating.hundredths())
            .bind(profile.reviews_count)
            .bind(profile.is_verified)
            .bind(&profile.location)
            .bind(Json(profile.format_names()))
            .bind(profile.folded())
            .bind($now)
    }};
}
use bind_profile;

/// The slugs that are, or look like, a numbered `base`. A base holds no wildcard of LIKE.
async fn taken(tx: &mut Tx, base: &str) -> Result<HashSet<String>, sqlx::Error> {
    let numbered = format!("{base}-%");
    let slugs: Vec<String> = on!(Tx, tx, |c| {
        sqlx::query_scalar("SELECT slug FROM tutors WHERE slug = $1 OR slug LIKE $2")
            .bind(base)
            .bind(&numbered)
            .fetch_all(c)
            .await
    })?;
    Ok(slugs.into_iter().collect())
}

/// Reads a row so that nobody changes it before our commit. SQLite's writer is alone anyway.
async fn locked(tx: &mut Tx, id: i64) -> Result<Option<Tutor>, sqlx::Error> {
    match tx {
        #[cfg(feature = "embedded")]
        Tx::Sqlite(t) => sqlx::query_as(BY_ID).bind(id).fetch_optional(&mut **t).await,
        #[cfg(feature = "production")]
        Tx::Postgres(t) => sqlx::query_as(BY_ID_LOCKED).bind(id).fetch_optional(&mut **t).await,
    }
}

/// Microseconds are what PostgreSQL keeps.
fn now() -> DateTime<Utc> {
    let now = Utc::now();
    now.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(now)
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::NotFound => Self::not_found("tutor"),
            StoreError::Event(e) if e.kind() == AppendErrorKind::Invalid => match e.invalid() {
                Some(invalid) => Self::unpublishable(&invalid.field().to_string(), &invalid.reason().to_string()),
                None => logged(&error),
            },
            StoreError::Event(e) if is_away(e) => Self::unavailable("database"),
            StoreError::Database(e) if is_away(e) => Self::unavailable("database"),
            StoreError::SlugContention { .. } => Self::unavailable("database"),
            StoreError::Event(_) | StoreError::Database(_) => logged(&error),
        }
    }
}

fn logged(error: &StoreError) -> Problem {
    tracing::error!(error = outbox_core::error::chain(error), "a request failed");
    Problem::internal()
}

#[cfg(test)]
mod tests {
    use axum::{http::StatusCode, response::IntoResponse};

    use super::*;

    async fn answer(error: StoreError) -> (StatusCode, String) {
        let response = Problem::from(error).into_response();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.expect("body");
        (status, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    #[tokio::test]
    async fn an_event_that_cannot_be_published_names_its_field() {
        let two_mib = "x".repeat(2 * 1024 * 1024);
        let event = NewEvent::json("Tutor", 1, "TutorCreated", &two_mib).expect("event");
        let refused = outbox_core::profile::Profile::default().check(&event).expect_err("too long");
        let (status, body) = answer(AppendError::from(refused).into()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(body.contains("\"errors\":{\"payload\":[\"is 2097154 bytes long"), "{body}");
    }

    #[tokio::test]
    async fn a_database_that_is_away_and_one_that_refuses_are_told_apart() {
        let (status, _) = answer(sqlx::Error::PoolTimedOut.into()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let wrapped = AppendError::new(AppendErrorKind::Database, "refused").with_source(sqlx::Error::PoolTimedOut);
        assert_eq!(answer(wrapped.into()).await.0, StatusCode::SERVICE_UNAVAILABLE);
        let secret = sqlx::Error::Configuration("a secret of the database".into());
        let (status, body) = answer(secret.into()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!body.contains("secret"), "{body}");
    }
}
