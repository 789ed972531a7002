//! Events that the index did not take, so that one of them does not stop search: with the reason, until somebody looks.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::projection::DeadLetter;
use outbox_projector::dead_letters::{DeadLetters, DeadLettersError, DeadLettersErrorKind};
use serde_json::{Value, json};

use crate::db::{Conn, Db, Tx, is_away, on};

/// The table `search_dead_letters` of the application's database.
pub(crate) struct SearchDeadLetters(Arc<Db>);

const INSERT: &str = "INSERT INTO search_dead_letters \
    (projection, id, place, cause, reason, attempts, given_up, record_key, payload, headers) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (projection, id) DO NOTHING";

/// Without the reason, which may quote the payload: that is for whoever may read the table, not for the log.
const LIST: &str = "SELECT projection, id, place, cause FROM search_dead_letters ORDER BY number LIMIT 100";

impl SearchDeadLetters {
    pub(crate) fn of(db: Arc<Db>) -> Self {
        Self(db)
    }

    /// Writes a warning for each letter, as many as one can look at.
    pub(crate) async fn warn(&self) -> Result<(), sqlx::Error> {
        let mut conn = self.0.read().await?;
        let all: Vec<(String, String, String, String)> =
            on!(Conn, &mut conn, |c| sqlx::query_as(LIST).fetch_all(c).await)?;
        for (projection, id, place, cause) in all {
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

fn headers(letter: &DeadLetter) -> String {
    let value = |bytes: &[u8]| std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), Value::from);
    let headers = letter.headers.iter().map(|(name, bytes)| json!([&**name, value(bytes)]));
    Value::Array(headers.collect()).to_string()
}
