//! Looking at consumers, pausing and dropping them.

use chrono::{DateTime, Utc};
use outbox_core::log::{ConsumerInfo, ConsumerName, LogError, MemberInfo};
use sqlx::SqliteConnection;

use super::{
    super::{
        Inner, error,
        reader::{self, State, time},
    },
    begin, begin_reading, now,
    places::Places,
    roster::{Roster, Trust},
    set_aside::known,
};
use crate::{refusals::unknown, stored};

const COUNTS: &str = "SELECT (SELECT count(*) FROM outbox_parked WHERE consumer = ?1), \
    (SELECT count(*) FROM outbox_blocked WHERE consumer = ?1), \
    (SELECT written_at FROM outbox_checkpoint WHERE consumer = ?1 AND written_at IS NOT NULL ORDER BY id DESC LIMIT 1)";

const PENDING: &str = "SELECT position, created_at FROM outbox_event AS e \
    WHERE position > ?2 AND position <= ?3 AND (?4 >> lane) & 1 = 1 \
    AND NOT EXISTS (SELECT 1 FROM outbox_parked AS p WHERE p.consumer = ?1 AND p.position = e.position) \
    AND NOT EXISTS (SELECT 1 FROM outbox_discarded AS d WHERE d.consumer = ?1 AND d.position = e.position) \
    ORDER BY position LIMIT 1";

/// Those that refer to a consumer, and then the consumers.
const FORGET: [&str; 7] = [
    "DELETE FROM outbox_member WHERE consumer = ?1",
    "DELETE FROM outbox_lane WHERE consumer = ?1",
    "DELETE FROM outbox_checkpoint WHERE consumer = ?1",
    "DELETE FROM outbox_parked WHERE consumer = ?1",
    "DELETE FROM outbox_blocked WHERE consumer = ?1",
    "DELETE FROM outbox_discarded WHERE consumer = ?1",
    "DELETE FROM outbox_consumer WHERE name = ?1",
];

const KEEP_EPOCH: &str = "UPDATE outbox_log SET dropped_epoch = \
    max(dropped_epoch, (SELECT epoch FROM outbox_consumer WHERE name = ?1))";

pub(in super::super) async fn consumers(log: &Inner) -> Result<Vec<ConsumerInfo>, LogError> {
    let mut tx = begin_reading(log).await?;
    let state = reader::state(log, &mut tx).await?;
    let names = names(&mut tx).await?;
    let mut consumers = Vec::with_capacity(names.len());
    for name in names {
        consumers.push(info(&mut tx, &state, name).await?);
    }
    Ok(consumers)
}

/// All consumers, by name.
pub(in super::super) async fn names(conn: &mut SqliteConnection) -> Result<Vec<ConsumerName>, LogError> {
    let names: Vec<String> = sqlx::query_scalar("SELECT name FROM outbox_consumer ORDER BY name")
        .fetch_all(conn)
        .await
        .map_err(error::log)?;
    let parse = |name: String| {
        ConsumerName::parse(&name)
            .map_err(|error| stored::corrupt(format!("{name:?} is no consumer")).with_source(error))
    };
    names.into_iter().map(parse).collect()
}

/// Takes places as they stand: operators look here when something is wrong.
async fn info(conn: &mut SqliteConnection, state: &State, name: ConsumerName) -> Result<ConsumerInfo, LogError> {
    let roster = Roster::load(conn, state, &name, Trust::AsStored).await?;
    let (parked, blocked_keys, checkpoint_at): (i64, i64, Option<i64>) =
        sqlx::query_as(COUNTS).bind(name.as_str()).fetch_one(&mut *conn).await.map_err(error::log)?;
    let now = now();
    let members = roster.members.iter().map(|member| {
        let standing = member.standing(now);
        let expires = time(member.expires)?;
        let (epoch, lanes, live) = (member.epoch, standing.lanes, standing.live);
        Ok(MemberInfo { member: member.id, epoch, lanes, expires, live })
    });
    Ok(ConsumerInfo {
        members: members.collect::<Result<_, LogError>>()?,
        created_at: roster.created_at,
        paused: roster.paused,
        free_lanes: roster.free.lanes(),
        position: roster.lowest(),
        checkpoint_at: checkpoint_at.map(time).transpose()?,
        parked: parked as u64,
        blocked_keys: blocked_keys as u64,
        oldest_pending: oldest_pending(conn, state, &name, &roster.places()).await?,
        head: state.head,
        name,
    })
}

/// Looks behind the lowest place first, and no further than what was found there.
async fn oldest_pending(
    conn: &mut SqliteConnection,
    state: &State,
    consumer: &ConsumerName,
    places: &Places,
) -> Result<Option<DateTime<Utc>>, LogError> {
    let (mut oldest, mut up_to) = (None, state.head);
    for (position, lanes) in places.iter() {
        let found: Option<(i64, i64)> = sqlx::query_as(PENDING)
            .bind(consumer.as_str())
            .bind(position as i64)
            .bind(up_to as i64)
            .bind(lanes.mask() as i64)
            .fetch_optional(&mut *conn)
            .await
            .map_err(error::log)?;
        if let Some((position, created_at)) = found {
            oldest = DateTime::from_timestamp_micros(created_at);
            up_to = position as u64;
        }
    }
    Ok(oldest)
}

pub(in super::super) async fn set_paused(log: &Inner, consumer: &ConsumerName, paused: bool) -> Result<(), LogError> {
    let mut tx = begin(log).await?;
    reader::identity(log, &mut tx).await?;
    let known = sqlx::query("UPDATE outbox_consumer SET paused = ?2 WHERE name = ?1")
        .bind(consumer.as_str())
        .bind(paused)
        .execute(&mut *tx)
        .await
        .map_err(error::log)?;
    if known.rows_affected() == 0 {
        return Err(unknown(consumer));
    }
    tx.commit().await.map_err(error::log)
}

pub(in super::super) async fn drop_consumer(log: &Inner, consumer: &ConsumerName) -> Result<(), LogError> {
    let mut tx = begin(log).await?;
    reader::identity(log, &mut tx).await?;
    known(&mut tx, consumer).await?;
    for sql in std::iter::once(KEEP_EPOCH).chain(FORGET) {
        sqlx::query(sql).bind(consumer.as_str()).execute(&mut *tx).await.map_err(error::log)?;
    }
    tx.commit().await.map_err(error::log)?;
    tracing::info!(%consumer, "dropped");
    Ok(())
}
