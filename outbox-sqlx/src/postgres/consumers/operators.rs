//! Looking at consumers, pausing and dropping them.

use chrono::{DateTime, Utc};
use outbox_core::{
    event::LaneSet,
    log::{ConsumerInfo, ConsumerName, LogError, MemberId, MemberInfo},
};
use sqlx::{PgConnection, Row as _, SqlStr, postgres::PgRow};

use super::{
    super::{Inner, SchemaName, cursor::Place, error, reader, transaction},
    BEGIN, BEGIN_READING, checkpoints,
    places::{Places, all_places},
    sql,
};
use crate::refusals::unknown;

#[derive(Debug)]
pub(super) struct Sql {
    counts: SqlStr,
    members: SqlStr,
    pending: SqlStr,
    set_paused: SqlStr,
    lock: SqlStr,
    forget: Vec<SqlStr>,
}

/// In this order: the members' rows keep those who write from going on, and keys are locked as everybody locks them.
const FORGET: [&str; 8] = [
    "DELETE FROM @schema@.outbox_member WHERE consumer = $1",
    "SELECT 1 FROM @schema@.outbox_blocked WHERE consumer = $1 ORDER BY lane_key FOR UPDATE",
    "DELETE FROM @schema@.outbox_lane WHERE consumer = $1",
    "DELETE FROM @schema@.outbox_checkpoint WHERE consumer = $1",
    "DELETE FROM @schema@.outbox_blocked WHERE consumer = $1",
    "DELETE FROM @schema@.outbox_parked WHERE consumer = $1",
    "DELETE FROM @schema@.outbox_discarded WHERE consumer = $1",
    "DELETE FROM @schema@.outbox_consumer WHERE name = $1",
];

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let sql = |text: &str| sql(schema, text);
        // A place has every row up to a position behind it but those of transactions that were still open, and none
        // above it.
        let wanted = "$3 >> e.lane & 1 = 1
            AND NOT EXISTS (SELECT FROM @schema@.outbox_parked AS p WHERE p.consumer = $1 AND p.position = e.position)
            AND NOT EXISTS (SELECT FROM @schema@.outbox_discarded AS d WHERE d.consumer = $1 AND d.position = e.position)";
        let pending = format!(
            "SELECT least(
                (SELECT e.created_at FROM @schema@.outbox_event AS e
                    WHERE e.position > $2 AND {wanted} ORDER BY e.position LIMIT 1),
                (SELECT min(e.created_at) FROM unnest($4::text[]) AS x
                    JOIN @schema@.outbox_event AS e ON e.xid = x::xid8 AND e.position <= $2 WHERE {wanted})
            )"
        );
        let counts = format!(
            "{} SELECT c.created_at, c.paused,
                (SELECT count(*) FROM @schema@.outbox_parked AS p WHERE p.consumer = c.name),
                (SELECT count(*) FROM @schema@.outbox_blocked AS b WHERE b.consumer = c.name),
                (SELECT max(k.written_at) FROM last CROSS JOIN LATERAL (
                    SELECT k.written_at FROM @schema@.outbox_checkpoint AS k
                    WHERE k.consumer = $1 AND k.epoch = last.epoch AND {} AND k.written_at IS NOT NULL
                    ORDER BY k.nth DESC LIMIT 1
                ) AS k)
            FROM @schema@.outbox_consumer AS c WHERE c.name = $1",
            checkpoints::LAST_OF_EACH,
            checkpoints::kept("k")
        );
        Self {
            counts: sql(&counts),
            members: sql("SELECT member, epoch, lanes, expires, expires > clock_timestamp()
                FROM @schema@.outbox_member WHERE consumer = $1 ORDER BY epoch"),
            pending: sql(&pending),
            set_paused: sql("UPDATE @schema@.outbox_consumer SET paused = $2 WHERE name = $1"),
            // Not FOR UPDATE yet: a member that gives lanes back must be able to go on while its row is waited for.
            lock: sql("WITH locked AS MATERIALIZED (
                    SELECT epoch FROM @schema@.outbox_consumer WHERE name = $1 FOR NO KEY UPDATE
                )
                UPDATE @schema@.outbox_log SET dropped_epoch = greatest(dropped_epoch, locked.epoch) FROM locked"),
            forget: FORGET.iter().map(|text| sql(text)).collect(),
        }
    }
}

/// Takes places as they stand: operators look here when something is wrong.
pub(in super::super) async fn consumers(log: &Inner) -> Result<Vec<ConsumerInfo>, LogError> {
    let mut tx = transaction::begin(&log.pool, BEGIN_READING).await?;
    let lanes = reader::identity(log, &mut tx).await?.lanes;
    let places = all_places(log, &mut tx, lanes, None).await?;
    let mut consumers = Vec::with_capacity(places.len());
    for (name, places) in places {
        consumers.extend(info(log, &mut tx, name, &places, LaneSet::all(lanes)).await?);
    }
    // Last, so that no place is beyond it.
    let head = checkpoints::head(log, &mut tx).await?;
    tx.commit().await.map_err(error::log)?;
    Ok(consumers.into_iter().map(|consumer| ConsumerInfo { head, ..consumer }).collect())
}

/// `None` when it was dropped meanwhile.
async fn info(
    log: &Inner,
    conn: &mut PgConnection,
    name: ConsumerName,
    places: &Places,
    all: LaneSet,
) -> Result<Option<ConsumerInfo>, LogError> {
    let statements = &log.consumers.operators;
    let row = sqlx::query(statements.counts.clone()).bind(name.as_str()).fetch_optional(&mut *conn).await;
    let Some(row) = row.map_err(error::log)? else { return Ok(None) };
    let counts = || -> Result<(i64, i64), sqlx::Error> { Ok((row.try_get(2)?, row.try_get(3)?)) };
    let (parked, blocked_keys) = counts().map_err(error::log)?;
    let rows = sqlx::query(statements.members.clone()).bind(name.as_str()).fetch_all(&mut *conn).await;
    let members: Vec<MemberInfo> =
        rows.and_then(|rows| rows.iter().map(member).collect::<Result<_, _>>()).map_err(error::log)?;
    let owned = members.iter().fold(LaneSet::EMPTY, |owned, member| owned.union(member.lanes));
    Ok(Some(ConsumerInfo {
        created_at: row.try_get(0).map_err(error::log)?,
        paused: row.try_get(1).map_err(error::log)?,
        checkpoint_at: row.try_get(4).map_err(error::log)?,
        members,
        free_lanes: all.difference(owned),
        position: places.lowest()?,
        parked: parked as u64,
        blocked_keys: blocked_keys as u64,
        oldest_pending: oldest_pending(log, conn, &name, places).await?,
        head: 0,
        name,
    }))
}

fn member(row: &PgRow) -> Result<MemberInfo, sqlx::Error> {
    let (epoch, lanes): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
    Ok(MemberInfo {
        member: MemberId(row.try_get(0)?),
        epoch: epoch as u64,
        lanes: LaneSet::from_mask(lanes as u64),
        expires: row.try_get(3)?,
        live: row.try_get(4)?,
    })
}

async fn oldest_pending(
    log: &Inner,
    conn: &mut PgConnection,
    consumer: &ConsumerName,
    places: &Places,
) -> Result<Option<DateTime<Utc>>, LogError> {
    let mut oldest = None;
    for track in places.tracks() {
        let place = Place::parse(&track.cursor)?;
        let late: Vec<String> = place.awaited().iter().map(u64::to_string).collect();
        let found: Option<DateTime<Utc>> = sqlx::query_scalar(log.consumers.operators.pending.clone())
            .bind(consumer.as_str())
            .bind(place.seen().upto() as i64)
            .bind(track.lanes.mask() as i64)
            .bind(late)
            .fetch_one(&mut *conn)
            .await
            .map_err(error::log)?;
        oldest = [oldest, found].into_iter().flatten().min();
    }
    Ok(oldest)
}

pub(in super::super) async fn set_paused(log: &Inner, consumer: &ConsumerName, paused: bool) -> Result<(), LogError> {
    let mut conn = log.pool.acquire().await.map_err(error::log)?;
    reader::identity(log, &mut conn).await?;
    let known = sqlx::query(log.consumers.operators.set_paused.clone())
        .bind(consumer.as_str())
        .bind(paused)
        .execute(&mut *conn)
        .await
        .map_err(error::log)?;
    if known.rows_affected() == 0 { Err(unknown(consumer)) } else { Ok(()) }
}

pub(in super::super) async fn drop_consumer(log: &Inner, consumer: &ConsumerName) -> Result<(), LogError> {
    let mut tx = transaction::begin(&log.pool, BEGIN).await?;
    reader::identity(log, &mut tx).await?;
    let statements = &log.consumers.operators;
    let known =
        sqlx::query(statements.lock.clone()).bind(consumer.as_str()).execute(&mut *tx).await.map_err(error::log)?;
    if known.rows_affected() == 0 {
        return Err(unknown(consumer));
    }
    for forget in &statements.forget {
        sqlx::query(forget.clone()).bind(consumer.as_str()).execute(&mut *tx).await.map_err(error::log)?;
    }
    tx.commit().await.map_err(error::log)?;
    tracing::info!(%consumer, "dropped");
    Ok(())
}
