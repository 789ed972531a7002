//! Events that members set aside, and publish again.

use std::time::Duration;

use outbox_core::{
    event::LaneSet,
    log::{ConsumerName, DUE_OF_A_KEY, Fence, LogError, Park, ParkFailure, Parked, ParkedEvent, Redriven, Republished},
};
use sqlx::{Row as _, SqlStr};

use super::{
    super::{Inner, SchemaName, error, reader},
    generations, set_aside, sql, storable,
};
use crate::{
    parked::{BEHIND, kept_reason, state_of},
    refusals::{fenced, no_such_event},
    stored::{self, Decoder},
};

/// Longer waits are as good as endless, and the database's clock has an end.
const LONGEST_WAIT: f64 = 1_000.0 * 365.0 * 86_400.0;

#[derive(Debug)]
pub(super) struct Sql {
    park: SqlStr,
    redriven: SqlStr,
    blocked_keys: SqlStr,
    due: SqlStr,
    is_due: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let sql = |text: &str| sql(schema, text);
        let columns = set_aside::columns("p");
        Self {
            park: sql("SELECT @schema@.outbox_park($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"),
            redriven: sql("SELECT @schema@.outbox_redriven($1, $2, $3, $4, $5, $6, $7)"),
            blocked_keys: sql("SELECT b.lane_key
                FROM @schema@.outbox_member AS m
                LEFT JOIN @schema@.outbox_blocked AS b ON b.consumer = m.consumer AND m.lanes >> b.lane & 1 = 1
                WHERE m.consumer = $1 AND m.member = $2 AND m.epoch = $3"),
            // Of so many keys the first so many events each: more cannot be among the first of all. An attempt begins at
            // those that are not in the middle of one. The member's row is not locked for that: whoever says that an
            // attempt began does no harm. In one order, against deadlocks.
            due: sql(&format!(
                "WITH member AS MATERIALIZED (
                    SELECT m.lanes FROM @schema@.outbox_member AS m
                    WHERE m.consumer = $1 AND m.member = $2 AND m.epoch = $3
                ), due AS MATERIALIZED (
                    SELECT p.* FROM member AS m CROSS JOIN LATERAL (
                        SELECT p.* FROM ({}) AS k CROSS JOIN LATERAL (
                            SELECT p.* FROM @schema@.outbox_parked AS p
                            WHERE p.consumer = $1 AND p.lane_key = k.lane_key ORDER BY p.position LIMIT {DUE_OF_A_KEY}
                        ) AS p
                        ORDER BY p.position LIMIT $4
                    ) AS p
                ), chosen AS MATERIALIZED (
                    SELECT b.lane_key FROM @schema@.outbox_blocked AS b
                    WHERE b.consumer = $1 AND b.lane_key IN (SELECT d.lane_key FROM due AS d) AND b.asked_since IS NULL
                    ORDER BY b.lane_key FOR UPDATE OF b
                ), begun AS (
                    UPDATE @schema@.outbox_blocked AS b SET asked_since = false
                    FROM chosen WHERE b.consumer = $1 AND b.lane_key = chosen.lane_key
                )
                SELECT {columns} FROM member LEFT JOIN due AS p ON true ORDER BY p.position",
                due_keys("m.lanes", "LIMIT $4")
            )),
            is_due: sql(&format!("SELECT EXISTS ({})", due_keys("$2::bigint", ""))),
        }
    }
}

/// Keys of consumer `$1` that are due: somebody asked for them, or the time of one of their events has come. Some of
/// them, the longest due first, when there is a limit.
pub(super) fn due_keys(lanes: &str, limit: &str) -> String {
    // To know whether there is any, the first one found will do.
    let (by_request, union, by_time) = if limit.is_empty() {
        ("", "UNION ALL", "")
    } else {
        ("ORDER BY b.requested_at", "UNION", "ORDER BY p.retry_at")
    };
    format!(
        "(SELECT b.lane_key FROM @schema@.outbox_blocked AS b
            WHERE b.consumer = $1 AND b.requested_at IS NOT NULL AND {lanes} >> b.lane & 1 = 1 {by_request} {limit})
        {union}
        (SELECT p.lane_key FROM @schema@.outbox_parked AS p
            WHERE p.consumer = $1 AND p.retry_at <= statement_timestamp() AND {lanes} >> p.lane & 1 = 1 {by_time} {limit})"
    )
}

pub(in super::super) async fn park(log: &Inner, fence: &Fence, parks: &[Park]) -> Result<Vec<Parked>, LogError> {
    let of = |park: &Park| park.failure.as_ref().map_or(BEHIND, state_of);
    let reason = |park: &Park| park.failure.as_ref().map_or("", kept_reason).to_owned();
    let answers: Option<Vec<i16>> = sqlx::query_scalar(log.consumers.parking.park.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(parks.iter().map(|park| park.lane).collect::<LaneSet>().mask() as i64)
        .bind(parks.iter().map(|park| park.sequence.position() as i64).collect::<Vec<_>>())
        .bind(parks.iter().map(|park| i32::from(park.sequence.generation())).collect::<Vec<_>>())
        .bind(parks.iter().map(|park| i16::from(park.lane.get())).collect::<Vec<_>>())
        .bind(parks.iter().map(of).collect::<Vec<_>>())
        .bind(parks.iter().map(|park| storable(&reason(park)).into_owned()).collect::<Vec<_>>())
        .bind(parks.iter().map(|park| park.failure.as_ref().map_or(0, |f| i64::from(f.attempts))).collect::<Vec<_>>())
        .bind(parks.iter().map(|park| park.failure.as_ref().and_then(wait)).collect::<Vec<Option<f64>>>())
        .fetch_one(&log.pool)
        .await
        .map_err(error::log)?;
    let answers = answers.ok_or_else(|| fenced(fence))?;
    let answer = |(answer, park): (&i16, &Park)| match answer {
        1 => Ok(Parked::Yes),
        0 => Ok(Parked::NotBlocked),
        _ => Err(no_such_event(park)),
    };
    // Where an event is missing none was parked: the error is about the first one missing.
    answers.iter().zip(parks).map(answer).collect()
}

fn wait(failure: &ParkFailure) -> Option<f64> {
    failure.retry_in.as_ref().map(Duration::as_secs_f64).map(|wait| wait.min(LONGEST_WAIT))
}

pub(in super::super) async fn blocked_keys(log: &Inner, fence: &Fence) -> Result<Vec<String>, LogError> {
    let keys: Vec<Option<String>> = sqlx::query_scalar(log.consumers.parking.blocked_keys.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .fetch_all(&log.pool)
        .await
        .map_err(error::log)?;
    // A member without blocked keys has one row without a key.
    if keys.is_empty() { Err(fenced(fence)) } else { Ok(keys.into_iter().flatten().collect()) }
}

pub(in super::super) async fn due_parked(
    log: &Inner,
    fence: &Fence,
    limit: usize,
) -> Result<Vec<ParkedEvent>, LogError> {
    let mut conn = log.pool.acquire().await.map_err(error::log)?;
    let rows = sqlx::query(log.consumers.parking.due.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(i64::try_from(limit.max(1)).unwrap_or(i64::MAX))
        .fetch_all(&mut *conn)
        .await
        .map_err(error::log)?;
    let first = rows.first().ok_or_else(|| fenced(fence))?;
    let none: Option<i64> = first.try_get(0).map_err(error::log)?;
    if none.is_none() {
        return Ok(Vec::new());
    }
    let id = reader::identity(log, &mut conn).await?.id;
    let mut decoder = Decoder::new(id, generations(log, &mut conn).await?);
    rows.iter().map(|row| set_aside::parked_event(&mut decoder, row)).collect()
}

/// Whether [`due_parked`] has something for the owner of these lanes.
pub(super) async fn is_due(log: &Inner, consumer: &ConsumerName, lanes: LaneSet) -> Result<bool, LogError> {
    sqlx::query_scalar(log.consumers.parking.is_due.clone())
        .bind(consumer.as_str())
        .bind(lanes.mask() as i64)
        .fetch_one(&log.pool)
        .await
        .map_err(error::log)
}

pub(in super::super) async fn redriven(
    log: &Inner,
    fence: &Fence,
    events: &[Republished],
) -> Result<Vec<Redriven>, LogError> {
    let free: Option<Vec<bool>> = sqlx::query_scalar(log.consumers.parking.redriven.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(events.iter().map(|event| event.lane).collect::<LaneSet>().mask() as i64)
        .bind(events.iter().map(|event| event.sequence.position() as i64).collect::<Vec<_>>())
        .bind(events.iter().map(|event| i32::from(event.sequence.generation())).collect::<Vec<_>>())
        .bind(events.iter().map(|event| storable(&event.lane_key).into_owned()).collect::<Vec<_>>())
        .fetch_one(&log.pool)
        .await
        .map_err(error::log)?;
    let free = free.ok_or_else(|| fenced(fence))?;
    if free.len() != events.len() {
        return Err(stored::corrupt("outbox_redriven does not answer for every event".to_owned()));
    }
    Ok(free.into_iter().map(|free| if free { Redriven::KeyFree } else { Redriven::KeyBlocked }).collect())
}
