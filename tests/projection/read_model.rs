//! Tables that come out differently when an event has its effect twice, not at all, or out of order; and what writes them:
//! a handler, and a store that compares versions.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::{
    error::BoxError,
    event::{Event, ReceivedEvent},
};
use outbox_projector::{
    external::{Change, StoreError, StoreErrorKind, VersionedStore, VersionedWrite, Written},
    sql::{Handled, Handler, HandlerError},
};
use rand::RngExt;
use sqlx::{PgPool, Postgres, Transaction};

use crate::mortal::{Failpoint, Fuse};

/// `entry` is the list of all changes in the order of their effects, `latest` counts them and keeps the last one,
/// `document` is what a search engine would hold.
pub(crate) const TABLES: &str = "
    CREATE TABLE entry (n bigserial PRIMARY KEY, aggregate text NOT NULL, v bigint NOT NULL);
    CREATE TABLE latest (aggregate text PRIMARY KEY, count bigint NOT NULL, v bigint NOT NULL);
    CREATE TABLE document (id text PRIMARY KEY, version bigint NOT NULL, v bigint)";

/// An aggregate is changed.
pub(crate) const CHANGED: &str = "AggChanged";
/// Its document is deleted; to the list it is a change like others.
pub(crate) const ERASED: &str = "AggErased";
/// Nothing can apply this.
pub(crate) const POISONED: &str = "AggPoisoned";

/// Writes `entry` and `latest`.
#[derive(Clone, Default)]
pub(crate) struct ListAndCount {
    pub(crate) fuse: Fuse,
    /// Each event takes a random time up to this, so that there is always a step in flight.
    pub(crate) takes: Duration,
}

impl ListAndCount {
    async fn write(&self, tx: &mut Transaction<'_, Postgres>, event: &Event) -> Result<Handled, HandlerError> {
        let (aggregate, v) = (event.aggregate_id.as_str(), version_of(event).map_err(HandlerError::reject)?);
        let entry = "INSERT INTO entry (aggregate, v) VALUES ($1, $2)";
        sqlx::query(entry).bind(aggregate).bind(v).execute(&mut **tx).await?;
        self.fuse.pass(Failpoint::InEffect);
        if !self.takes.is_zero() {
            let time = self.takes.mul_f64(rand::rng().random::<f64>());
            tokio::time::sleep(time).await;
        }
        let latest = "INSERT INTO latest (aggregate, count, v) VALUES ($1, 1, $2) \
                      ON CONFLICT (aggregate) DO UPDATE SET count = latest.count + 1, v = excluded.v";
        sqlx::query(latest).bind(aggregate).bind(v).execute(&mut **tx).await?;
        Ok(Handled::Done)
    }
}

#[async_trait]
impl Handler<Postgres> for ListAndCount {
    async fn handle(&self, tx: &mut Transaction<'_, Postgres>, event: &ReceivedEvent) -> Result<Handled, HandlerError> {
        self.write(tx, &event.event).await
    }

    async fn handle_all(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        events: &[&ReceivedEvent],
    ) -> Result<usize, HandlerError> {
        for received in events {
            self.write(tx, &received.event).await.map_err(|error| error.at(received.event.id))?;
        }
        self.fuse.pass(Failpoint::BeforeCommit);
        Ok(events.len())
    }
}

/// The same as an inbox calls it: one event, one commit.
pub(crate) struct OneByOne(pub(crate) ListAndCount);

#[async_trait]
impl Handler<Postgres> for OneByOne {
    async fn handle(&self, tx: &mut Transaction<'_, Postgres>, event: &ReceivedEvent) -> Result<Handled, HandlerError> {
        let handled = self.0.write(tx, &event.event).await?;
        self.0.fuse.pass(Failpoint::BeforeCommit);
        Ok(handled)
    }
}

/// `document`, as a store with external versions: of two writes the higher version stays, and deletions stay as rows.
#[derive(Clone)]
pub(crate) struct DocumentTable {
    pub(crate) pool: PgPool,
    pub(crate) fuse: Fuse,
}

#[async_trait]
impl VersionedStore for DocumentTable {
    async fn write(&self, writes: &[VersionedWrite]) -> Result<Vec<Written>, StoreError> {
        self.fuse.pass(Failpoint::BeforeCommit);
        // As a search engine does: a request is no transaction.
        let (first, rest) = writes.split_at(writes.len().div_ceil(2));
        let mut written = self.upsert(first).await?;
        self.fuse.pass(Failpoint::InEffect);
        written.extend(self.upsert(rest).await?);
        Ok(written)
    }
}

impl DocumentTable {
    async fn upsert(&self, writes: &[VersionedWrite]) -> Result<Vec<Written>, StoreError> {
        // In the order of their ids, so that two writers do not wait for each other in a ring.
        let upsert = "INSERT INTO document \
                      SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS d (id, version, v) ORDER BY id \
                      ON CONFLICT (id) DO UPDATE SET version = excluded.version, v = excluded.v \
                      WHERE document.version < excluded.version RETURNING id";
        let ids: Vec<&str> = writes.iter().map(|write| write.id.as_str()).collect();
        let versions: Vec<i64> = writes.iter().map(|write| write.version.cast_signed()).collect();
        let values: Vec<Option<i64>> = writes.iter().map(|write| number(write.document.as_deref()?)).collect();
        let stored = sqlx::query_scalar(upsert).bind(&ids).bind(versions).bind(values).fetch_all(&self.pool).await;
        let stored: Vec<String> = stored.map_err(|error| {
            StoreError::new(StoreErrorKind::Unavailable, "the table could not be written to").with_source(error)
        })?;
        let stored: HashSet<&str> = stored.iter().map(String::as_str).collect();
        let fate = |id: &&str| if stored.contains(id) { Written::Stored } else { Written::Stale };
        Ok(ids.iter().map(fate).collect())
    }
}

/// What an event means to [`DocumentTable`].
pub(crate) fn document(received: &ReceivedEvent) -> Result<Option<Change>, BoxError> {
    let event = &received.event;
    let (id, v) = (event.aggregate_id.as_str(), version_of(event)?);
    let is_erased = event.event_type.as_str() == ERASED;
    Ok(Some(if is_erased { Change::delete(id) } else { Change::store(id, Bytes::from(v.to_string())) }))
}

/// Which change of its aggregate it tells of.
fn version_of(event: &Event) -> Result<i64, String> {
    if event.event_type.as_str() == POISONED {
        return Err("it is poison".to_owned());
    }
    let payload = event.payload.as_deref().unwrap_or_default();
    let body: serde_json::Value = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    body["v"].as_i64().ok_or_else(|| "it has no v".to_owned())
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
