//! Events that the index did not take, so that one of them does not stop search: with the reason, until somebody looks.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use outbox_core::{
    error::{BoxError, chain},
    projection::{DeadLetter, DeadLetterCause},
};
use outbox_projector::dead_letters::{DeadLetters, DeadLettersError, DeadLettersErrorKind, TopicLetter};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::db::{Conn, Db, Tx, is_away, on};

/// The table `search_dead_letters` of the application's database.
pub(crate) struct SearchDeadLetters(Arc<Db>);

const INSERT: &str = "INSERT INTO search_dead_letters \
    (projection, id, place, cause, reason, attempts, given_up, record_key, payload, headers) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (projection, id) DO NOTHING";

/// Without the reason, which may quote the payload: that is for whoever may read the table, not for the log.
const NEWEST: &str = "SELECT projection, id, place, cause FROM search_dead_letters ORDER BY number DESC LIMIT $1";

/// As many as one can look at.
const WARNINGS: i64 = 100;

const ALL: &str = "SELECT projection, id, place, cause, reason, attempts, given_up, record_key, payload, headers \
    FROM search_dead_letters ORDER BY number";

/// All of them, in the order in which they were given up.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) letters: Vec<TopicLetter>,
    pub(crate) unreadable: Vec<UnreadableLetter>,
}

/// A row that is no letter.
pub(crate) struct UnreadableLetter {
    pub(crate) projection: String,
    pub(crate) id: String,
    pub(crate) why: String,
}

type Columns = (String, String, String, String, String, i64, DateTime<Utc>, Option<Vec<u8>>, Option<Vec<u8>>, String);

impl SearchDeadLetters {
    pub(crate) fn of(db: Arc<Db>) -> Self {
        Self(db)
    }

    /// Writes a warning for each of the newest letters, and says how many there are if those are not all.
    pub(crate) async fn warn(&self) -> Result<(), sqlx::Error> {
        let mut conn = self.0.read().await?;
        let newest: Vec<(String, String, String, String)> =
            on!(Conn, &mut conn, |c| sqlx::query_as(NEWEST).bind(WARNINGS).fetch_all(c).await)?;
        let count = "SELECT count(*) FROM search_dead_letters";
        let in_all: i64 = on!(Conn, &mut conn, |c| sqlx::query_scalar(count).fetch_one(c).await)?;
        if in_all > WARNINGS {
            tracing::warn!(in_all, "the newest {WARNINGS} dead letters of the search index follow, newest first");
        }
        for (projection, id, place, cause) in newest {
            tracing::warn!(projection, id, place, cause, "a dead letter of the search index is in search_dead_letters");
        }
        Ok(())
    }

    /// Forgets the letters of all projections but this one.
    #[cfg(feature = "embedded")]
    pub(crate) async fn forget_others(&self, projection: &str) -> Result<(), sqlx::Error> {
        let mut tx = self.0.begin().await?;
        on!(Tx, &mut tx, |c| sqlx::query("DELETE FROM search_dead_letters WHERE projection <> $1")
            .bind(projection)
            .execute(c)
            .await
            .map(drop))?;
        tx.commit().await
    }

    pub(crate) async fn all(&self) -> Result<Kept, sqlx::Error> {
        let mut conn = self.0.read().await?;
        let mut kept = Kept::default();
        on!(Conn, &mut conn, |c| {
            for row in sqlx::query(ALL).fetch_all(c).await? {
                match letter(&row) {
                    Ok(letter) => kept.letters.push(letter),
                    Err(why) => {
                        let (projection, id) = (row.try_get("projection")?, row.try_get("id")?);
                        kept.unreadable.push(UnreadableLetter { projection, id, why: chain(&*why) });
                    }
                }
            }
        });
        Ok(kept)
    }

    /// Removes letters of a projection, for good.
    pub(crate) async fn remove(&self, projection: &str, ids: impl Iterator<Item = Uuid>) -> Result<(), sqlx::Error> {
        let mut tx = self.0.begin().await?;
        for id in ids {
            on!(Tx, &mut tx, |c| sqlx::query("DELETE FROM search_dead_letters WHERE projection = $1 AND id = $2")
                .bind(projection)
                .bind(id.to_string())
                .execute(c)
                .await
                .map(drop))?;
        }
        tx.commit().await
    }

    async fn insert(&self, projection: &str, letters: &[DeadLetter]) -> Result<(), sqlx::Error> {
        let mut tx = self.0.begin().await?;
        for letter in letters {
            on!(Tx, &mut tx, |c| sqlx::query(INSERT)
                .bind(projection)
                .bind(letter.id().to_string())
                .bind(text(&letter.place))
                .bind(letter.cause.as_str())
                .bind(text(&letter.reason))
                .bind(i64::from(letter.attempts))
                .bind(letter.at)
                .bind(letter.key.as_deref())
                .bind(letter.payload.as_deref())
                .bind(headers(letter))
                .execute(c)
                .await
                .map(drop))?;
        }
        tx.commit().await
    }
}

#[async_trait]
impl DeadLetters for SearchDeadLetters {
    async fn store(&self, projection: &str, letters: &[DeadLetter]) -> Result<(), DeadLettersError> {
        self.insert(projection, letters).await.map_err(|error| {
            let kind = if is_away(&error) { DeadLettersErrorKind::Unavailable } else { DeadLettersErrorKind::Refused };
            DeadLettersError::new(kind, "search_dead_letters cannot be written").with_source(error)
        })?;
        for letter in letters {
            let (id, place, cause) = (letter.id(), &letter.place, letter.cause.as_str());
            tracing::warn!(projection, %id, place, cause, "a dead letter of the search index is in search_dead_letters");
        }
        Ok(())
    }
}

/// PostgreSQL's text holds no zero byte.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn letter<'r, R: Row>(row: &'r R) -> Result<TopicLetter, BoxError>
where
    Columns: FromRow<'r, R>,
{
    let (projection, id, place, cause, reason, attempts, at, key, payload, headers) = Columns::from_row(row)?;
    let cause = DeadLetterCause::parse(&cause).ok_or("its cause is not known")?;
    let mut letter = TopicLetter::new(id.parse()?, projection, place, cause);
    (letter.reason, letter.attempts, letter.at) = (reason, u32::try_from(attempts)?, at);
    (letter.key, letter.payload) = (key.map(Into::into), payload.map(Into::into));
    let headers: Vec<(String, HeaderValue)> = serde_json::from_str(&headers)?;
    letter.headers = headers.into_iter().map(|(name, value)| (name.into(), value.into_bytes().into())).collect();
    Ok(letter)
}

/// As the column `headers` has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Text(String),
    Bytes(Vec<u8>),
}

impl HeaderValue {
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn headers(letter: &DeadLetter) -> String {
    let value = |bytes: &[u8]| std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), Value::from);
    let headers = letter.headers.iter().map(|(name, bytes)| json!([&**name, value(bytes)]));
    Value::Array(headers.collect()).to_string()
}
