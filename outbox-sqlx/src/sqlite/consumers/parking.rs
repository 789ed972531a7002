//! Events that members set aside.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use outbox_core::log::{ConsumerName, Fence, LogError, Park, ParkFailure, Parked};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow, types::JsonValue};

use super::{
    super::{
        Inner, error,
        reader::{self, State},
    },
    begin, lanes_of, now,
};
use crate::{
    parked::{BEHIND, kept_reason, state_of},
    refusals::{fenced, no_such_event},
};

/// In the order asked for. The columns of a parked copy where there is one; an event without its payload and headers.
const FIND: &str = "SELECT coalesce(k.position, e.position), coalesce(k.lane, e.lane), coalesce(k.id, e.id), \
    coalesce(k.aggregate_type, e.aggregate_type), coalesce(k.aggregate_id, e.aggregate_id), \
    coalesce(k.ordering_key, e.ordering_key), coalesce(k.event_type, e.event_type), \
    coalesce(k.content_type, e.content_type), NULL, x'', coalesce(k.created_at, e.created_at), \
    coalesce(k.unordered, e.unordered), k.position IS NOT NULL, \
    EXISTS (SELECT 1 FROM outbox_discarded AS d WHERE d.consumer = ?1 AND d.position = asked.value) \
    FROM json_each(?2) AS asked LEFT JOIN outbox_event AS e ON e.position = asked.value \
    LEFT JOIN outbox_parked AS k ON k.consumer = ?1 AND k.position = asked.value ORDER BY asked.key";

const BLOCKED: &str = "SELECT lane_key FROM outbox_blocked WHERE consumer = ?1 \
    AND lane_key IN (SELECT value FROM json_each(?2))";

/// The payload never leaves the database.
const PARK: &str = "INSERT INTO outbox_parked (consumer, position, generation, lane, lane_key, id, aggregate_type, \
    aggregate_id, ordering_key, event_type, content_type, payload, headers, created_at, unordered, state, reason, \
    attempts, parked_at, retry_at) \
    SELECT ?1, position, ?3, lane, ?4, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type, payload, \
    headers, created_at, unordered, ?5, ?6, ?7, ?8, ?9 FROM outbox_event WHERE position = ?2";

const PARK_AGAIN: &str = "UPDATE outbox_parked SET state = ?3, reason = ?4, attempts = ?5, retry_at = ?6 \
    WHERE consumer = ?1 AND position = ?2";

/// Who fails again is no longer asked for, but for what was asked since the attempt began.
const BLOCK: &str = "INSERT INTO outbox_blocked (consumer, lane_key, lane) VALUES (?1, ?2, ?3) \
    ON CONFLICT (consumer, lane_key) DO UPDATE SET \
    requested_at = CASE WHEN asked_since IS NOT 0 THEN requested_at END, asked_since = NULL";

pub(in super::super) async fn park(log: &Inner, fence: &Fence, parks: &[Park]) -> Result<Vec<Parked>, LogError> {
    let mut tx = begin(log).await?;
    let state = reader::state(log, &mut tx).await?;
    let owned = lanes_of(&mut tx, fence).await?;
    if parks.iter().any(|park| !owned.contains(park.lane)) {
        return Err(fenced(fence));
    }
    let found = find(&mut tx, &state, &fence.consumer, parks).await?;
    let mut parking = Parking::new(&mut tx, &fence.consumer, &found).await?;
    let mut answers = Vec::with_capacity(parks.len());
    for (park, found) in parks.iter().zip(&found) {
        answers.push(match found {
            Some(found) => parking.park(&mut tx, park, found).await?,
            None => Parked::Yes,
        });
    }
    tx.commit().await.map_err(error::log)?;
    Ok(answers)
}

/// An event that is to be parked.
struct Found {
    lane_key: String,
    /// It is parked already.
    parked: bool,
}

/// `None` for one that an operator gave up while it was being published again, and whose row retention has removed.
async fn find(
    conn: &mut SqliteConnection,
    state: &State,
    consumer: &ConsumerName,
    parks: &[Park],
) -> Result<Vec<Option<Found>>, LogError> {
    let positions: JsonValue = parks.iter().map(|park| park.sequence.position()).collect();
    let rows = sqlx::query(FIND).bind(consumer.as_str()).bind(positions).fetch_all(conn).await.map_err(error::log)?;
    let mut decoder = state.decoder();
    let found = |(park, row): (&Park, &SqliteRow)| {
        let columns = || -> Result<_, sqlx::Error> { Ok((row.try_get(0)?, row.try_get(12)?, row.try_get(13)?)) };
        let (position, parked, given_up): (Option<i64>, bool, bool) = columns().map_err(error::log)?;
        if !state.generations.include(park.sequence) || (position.is_none() && !given_up) {
            return Err(no_such_event(park));
        }
        if given_up && !parked {
            return Ok(None);
        }
        let event = decoder.event(&reader::columns(row)?)?;
        if event.lane != park.lane {
            return Err(no_such_event(park));
        }
        Ok(Some(Found { lane_key: event.event.lane_key().into_owned(), parked }))
    };
    parks.iter().zip(&rows).map(found).collect()
}

/// What is blocked and parked while events are parked one after the other.
struct Parking<'c> {
    consumer: &'c ConsumerName,
    blocked: HashSet<String>,
    parked: BTreeSet<u64>,
    now: i64,
}

impl<'c> Parking<'c> {
    async fn new(
        conn: &mut SqliteConnection,
        consumer: &'c ConsumerName,
        found: &[Option<Found>],
    ) -> Result<Self, LogError> {
        let keys: BTreeSet<&str> = found.iter().flatten().map(|found| found.lane_key.as_str()).collect();
        let blocked = blocked(conn, consumer, keys.into_iter().collect()).await?;
        Ok(Self { consumer, blocked, parked: BTreeSet::new(), now: now() })
    }

    async fn park(&mut self, conn: &mut SqliteConnection, park: &Park, found: &Found) -> Result<Parked, LogError> {
        let parked = found.parked || self.parked.contains(&park.sequence.position());
        match &park.failure {
            None if parked => return Ok(Parked::Yes),
            None if !self.blocked.contains(&found.lane_key) => return Ok(Parked::NotBlocked),
            None => self.insert(conn, park, found, None).await?,
            Some(failure) if parked => self.park_again(conn, park, failure).await?,
            Some(failure) => self.insert(conn, park, found, Some(failure)).await?,
        }
        if park.failure.is_some() {
            self.block(conn, park, found).await?;
        }
        Ok(Parked::Yes)
    }

    async fn insert(
        &mut self,
        conn: &mut SqliteConnection,
        park: &Park,
        found: &Found,
        failure: Option<&ParkFailure>,
    ) -> Result<(), LogError> {
        sqlx::query(PARK)
            .bind(self.consumer.as_str())
            .bind(park.sequence.position() as i64)
            .bind(i64::from(park.sequence.generation()))
            .bind(&found.lane_key)
            .bind(failure.map_or(BEHIND, state_of))
            .bind(failure.map_or("", kept_reason))
            .bind(failure.map_or(0, |failure| i64::from(failure.attempts)))
            .bind(self.now)
            .bind(failure.and_then(|failure| self.retry_at(failure)))
            .execute(conn)
            .await
            .map_err(error::log)?;
        self.parked.insert(park.sequence.position());
        Ok(())
    }

    async fn park_again(
        &self,
        conn: &mut SqliteConnection,
        park: &Park,
        failure: &ParkFailure,
    ) -> Result<(), LogError> {
        sqlx::query(PARK_AGAIN)
            .bind(self.consumer.as_str())
            .bind(park.sequence.position() as i64)
            .bind(state_of(failure))
            .bind(kept_reason(failure))
            .bind(i64::from(failure.attempts))
            .bind(self.retry_at(failure))
            .execute(conn)
            .await
            .map_err(error::log)?;
        Ok(())
    }

    async fn block(&mut self, conn: &mut SqliteConnection, park: &Park, found: &Found) -> Result<(), LogError> {
        sqlx::query(BLOCK)
            .bind(self.consumer.as_str())
            .bind(&found.lane_key)
            .bind(i64::from(park.lane.get()))
            .execute(conn)
            .await
            .map_err(error::log)?;
        self.blocked.insert(found.lane_key.clone());
        Ok(())
    }

    /// In milliseconds; a wait that is too long for the clock never ends.
    fn retry_at(&self, failure: &ParkFailure) -> Option<i64> {
        let never = DateTime::<Utc>::MAX_UTC.timestamp_millis();
        let after =
            |wait: Duration| i64::try_from(wait.as_millis()).map_or(never, |wait| self.now.saturating_add(wait));
        failure.retry_in.map(|wait| after(wait).min(never))
    }
}

/// Those of the keys that are blocked.
pub(super) async fn blocked(
    conn: &mut SqliteConnection,
    consumer: &ConsumerName,
    keys: JsonValue,
) -> Result<HashSet<String>, LogError> {
    let blocked: Vec<String> =
        sqlx::query_scalar(BLOCKED).bind(consumer.as_str()).bind(keys).fetch_all(conn).await.map_err(error::log)?;
    Ok(blocked.into_iter().collect())
}

pub(in super::super) async fn blocked_keys(log: &Inner, fence: &Fence) -> Result<Vec<String>, LogError> {
    let mut conn = log.read.acquire().await.map_err(error::log)?;
    let owned = lanes_of(&mut conn, fence).await?;
    let sql = "SELECT lane_key FROM outbox_blocked WHERE consumer = ?1 AND (?2 >> lane) & 1 = 1";
    sqlx::query_scalar(sql)
        .bind(fence.consumer.as_str())
        .bind(owned.mask() as i64)
        .fetch_all(&mut *conn)
        .await
        .map_err(error::log)
}
