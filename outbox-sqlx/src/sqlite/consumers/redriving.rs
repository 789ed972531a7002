//! Events that were set aside and are published again.

use std::collections::BTreeSet;

use outbox_core::{
    event::LaneSet,
    log::{ConsumerName, DUE_OF_A_KEY, Fence, LogError, ParkedEvent, Redriven, Republished},
};
use sqlx::{SqliteConnection, types::JsonValue};

use super::{
    super::{Inner, error, reader},
    begin, lanes_of, now,
    parking::blocked,
    set_aside::{parked_columns, parked_event},
};
use crate::refusals::fenced;

/// The first event of a key decides. One behind nothing is due: the failed one in front of it is gone.
macro_rules! due_keys {
    () => {
        "outbox_blocked AS b WHERE b.consumer = ?1 AND (?2 >> b.lane) & 1 = 1 \
        AND (b.requested_at IS NOT NULL OR (SELECT f.state = 'behind' OR coalesce(f.retry_at <= ?3, 0) \
        FROM outbox_parked AS f WHERE f.consumer = b.consumer AND f.lane_key = b.lane_key ORDER BY f.position LIMIT 1))"
    };
}

const IS_DUE: &str = concat!("SELECT EXISTS (SELECT 1 FROM ", due_keys!(), ")");

const DUE: &str = concat!(
    "SELECT ",
    parked_columns!(),
    " FROM outbox_parked AS p WHERE p.consumer = ?1 AND p.position IN (SELECT position FROM (SELECT position, \
    row_number() OVER (PARTITION BY lane_key ORDER BY position) AS nth FROM outbox_parked \
    WHERE consumer = ?1 AND lane_key IN (SELECT b.lane_key FROM ",
    due_keys!(),
    ")) WHERE nth <= ?5) ORDER BY p.position LIMIT ?4"
);

const BEGIN_ATTEMPT: &str = "UPDATE outbox_blocked SET asked_since = 0 \
    WHERE consumer = ?1 AND asked_since IS NULL AND lane_key IN (SELECT value FROM json_each(?2))";

const UNPARK: &str = "DELETE FROM outbox_parked WHERE consumer = ?1 AND (?2 >> lane) & 1 = 1 \
    AND position IN (SELECT value FROM json_each(?3))";

const UNBLOCK: &str = "DELETE FROM outbox_blocked AS b WHERE consumer = ?1 AND (?2 >> lane) & 1 = 1 \
    AND lane_key IN (SELECT value FROM json_each(?3)) \
    AND NOT EXISTS (SELECT 1 FROM outbox_parked AS p WHERE p.consumer = b.consumer AND p.lane_key = b.lane_key)";

/// Whether [`due_parked`] has something for the owner of these lanes.
pub(super) async fn is_due(
    conn: &mut SqliteConnection,
    consumer: &ConsumerName,
    owned: LaneSet,
) -> Result<bool, LogError> {
    sqlx::query_scalar(IS_DUE)
        .bind(consumer.as_str())
        .bind(owned.mask() as i64)
        .bind(now())
        .fetch_one(conn)
        .await
        .map_err(error::log)
}

pub(in super::super) async fn due_parked(
    log: &Inner,
    fence: &Fence,
    limit: usize,
) -> Result<Vec<ParkedEvent>, LogError> {
    let mut conn = log.read.acquire().await.map_err(error::log)?;
    let owned = lanes_of(&mut conn, fence).await?;
    let state = reader::state(log, &mut conn).await?;
    let rows = sqlx::query(DUE)
        .bind(fence.consumer.as_str())
        .bind(owned.mask() as i64)
        .bind(now())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(DUE_OF_A_KEY as i64)
        .fetch_all(&mut *conn)
        .await
        .map_err(error::log)?;
    drop(conn);
    let mut decoder = state.decoder();
    let due: Vec<ParkedEvent> = rows.iter().map(|row| parked_event(&mut decoder, row)).collect::<Result<_, _>>()?;
    let keys: BTreeSet<_> = due.iter().map(|parked| parked.event.event.lane_key()).collect();
    if !keys.is_empty() {
        // What is asked for between the two looks is carried out by the attempt that begins when this call returns.
        sqlx::query(BEGIN_ATTEMPT)
            .bind(fence.consumer.as_str())
            .bind(keys.iter().map(AsRef::as_ref).collect::<JsonValue>())
            .execute(&log.write)
            .await
            .map_err(error::log)?;
    }
    Ok(due)
}

pub(in super::super) async fn redriven(
    log: &Inner,
    fence: &Fence,
    events: &[Republished],
) -> Result<Vec<Redriven>, LogError> {
    let mut tx = begin(log).await?;
    let state = reader::state(log, &mut tx).await?;
    let owned = lanes_of(&mut tx, fence).await?;
    if events.iter().any(|event| !owned.contains(event.lane)) {
        return Err(fenced(fence));
    }
    let mask = owned.mask() as i64;
    let of_this_log = events.iter().filter(|event| state.generations.include(event.sequence));
    let positions: JsonValue = of_this_log.map(|event| event.sequence.position()).collect();
    let keys: BTreeSet<&str> = events.iter().map(|event| event.lane_key.as_str()).collect();
    let keys: JsonValue = keys.into_iter().collect();
    for (sql, list) in [(UNPARK, &positions), (UNBLOCK, &keys)] {
        sqlx::query(sql)
            .bind(fence.consumer.as_str())
            .bind(mask)
            .bind(list)
            .execute(&mut *tx)
            .await
            .map_err(error::log)?;
    }
    let blocked = blocked(&mut tx, &fence.consumer, keys).await?;
    tx.commit().await.map_err(error::log)?;
    let of = |event: &Republished| {
        if blocked.contains(&event.lane_key) { Redriven::KeyBlocked } else { Redriven::KeyFree }
    };
    Ok(events.iter().map(of).collect())
}
