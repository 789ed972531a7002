//! Joining, renewing, leaving.

use std::time::Duration;

use outbox_core::{
    event::{LaneCount, LaneSet},
    log::{
        Assignment, Claim, ConsumerName, Fence, LogError, LogErrorKind, MemberId, Renewal,
        balance::{Standing, plan},
        lanes_of,
    },
};
use sqlx::{PgConnection, Row as _, SqlStr};

use super::{
    super::{Inner, SchemaName, cursor::Place, error, reader, transaction},
    BEGIN, BEGIN_READING, parking,
    places::all_places,
    roster, sql,
};
use crate::refusals::{fenced, unknown};

/// Longer leases are as good as endless, and the database's clock has an end.
const LONGEST_LEASE: f64 = 100.0 * 365.0 * 86_400.0;

#[derive(Debug)]
pub(super) struct Sql {
    newest_xid: SqlStr,
    next_epoch: SqlStr,
    end: SqlStr,
    add: SqlStr,
    trim: SqlStr,
    renew: SqlStr,
    lock_consumer: SqlStr,
    lock_member: SqlStr,
    leave: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let sql = |text: &str| sql(schema, text);
        Self {
            newest_xid: sql("SELECT e.xid::text FROM @schema@.outbox_event AS e ORDER BY e.xid DESC LIMIT 1"),
            next_epoch: sql("UPDATE @schema@.outbox_consumer SET epoch = epoch + 1 WHERE name = $1
                RETURNING epoch, paused"),
            end: sql("DELETE FROM @schema@.outbox_member WHERE consumer = $1 AND member = $2 RETURNING epoch, lanes"),
            add: sql("INSERT INTO @schema@.outbox_member (consumer, member, epoch, claim_all, expires)
                VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5))"),
            // What memberships that ended left behind; those that run trim their own.
            trim: sql("DELETE FROM @schema@.outbox_checkpoint AS c
                WHERE c.consumer = $1
                    AND c.epoch NOT IN (SELECT m.epoch FROM @schema@.outbox_member AS m WHERE m.consumer = $1)
                    AND (c.epoch, c.nth) <= (
                        SELECT n.epoch, n.nth FROM @schema@.outbox_checkpoint AS n WHERE n.consumer = $1
                        ORDER BY n.epoch DESC, n.nth DESC OFFSET $2 LIMIT 1
                    )"),
            renew: sql(&format!(
                "WITH renewed AS (
                    UPDATE @schema@.outbox_member SET expires = clock_timestamp() + make_interval(secs => $4)
                    WHERE consumer = $1 AND member = $2 AND epoch = $3 RETURNING lanes
                ), due AS MATERIALIZED (
                    SELECT EXISTS ({}) AS any FROM renewed
                )
                SELECT m.member, m.claim_all, m.lanes, m.member = $2 OR m.expires > clock_timestamp(), c.paused, due.any
                FROM due JOIN @schema@.outbox_consumer AS c ON c.name = $1
                JOIN @schema@.outbox_member AS m ON m.consumer = $1",
                parking::due_keys("renewed.lanes", "")
            )),
            lock_consumer: sql("SELECT 1 FROM @schema@.outbox_consumer WHERE name = $1 FOR NO KEY UPDATE"),
            lock_member: sql("SELECT 1 FROM @schema@.outbox_member
                WHERE consumer = $1 AND member = $2 AND epoch = $3 FOR UPDATE"),
            leave: sql("SELECT @schema@.outbox_leave($1, $2, $3)"),
        }
    }
}

pub(in super::super) async fn join(
    log: &Inner,
    consumer: &ConsumerName,
    member: MemberId,
    claim: Claim,
    lease: Duration,
) -> Result<Assignment, LogError> {
    let lanes = check_places(log, consumer).await?;
    let mut tx = transaction::begin(&log.pool, BEGIN).await?;
    let known: Option<(i64, bool)> = sqlx::query_as(log.consumers.membership.next_epoch.clone())
        .bind(consumer.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(error::log)?;
    let (epoch, paused) = known.ok_or_else(|| unknown(consumer))?;
    let fence = Fence { consumer: consumer.clone(), member, epoch: epoch as u64 };
    begin_anew(log, &mut tx, &fence, claim, lease).await?;
    let (gained, _) = roster::balance(log, &mut tx, &fence, lanes).await?;
    sqlx::query(log.consumers.membership.trim.clone())
        .bind(consumer.as_str())
        .bind(super::checkpoints::HISTORY)
        .execute(&mut *tx)
        .await
        .map_err(error::log)?;
    tx.commit().await.map_err(error::log)?;
    tracing::info!(%consumer, member = %member.0, epoch, lanes = ?gained.lanes(), "joined");
    Ok(Assignment { fence, tracks: gained.into_tracks(), paused })
}

async fn begin_anew(
    log: &Inner,
    conn: &mut PgConnection,
    fence: &Fence,
    claim: Claim,
    lease: Duration,
) -> Result<(), LogError> {
    let Fence { consumer, member, epoch } = fence;
    let statements = &log.consumers.membership;
    let former: Option<(i64, i64)> = sqlx::query_as(statements.end.clone())
        .bind(consumer.as_str())
        .bind(member.0)
        .fetch_optional(&mut *conn)
        .await
        .map_err(error::log)?;
    if let Some((former, lanes)) = former {
        roster::keep_places(log, conn, fence, former, lanes).await?;
    }
    sqlx::query(statements.add.clone())
        .bind(consumer.as_str())
        .bind(member.0)
        .bind(*epoch as i64)
        .bind(claim == Claim::All)
        .bind(seconds(lease))
        .execute(conn)
        .await
        .map_err(error::log)?;
    Ok(())
}

/// Before anything is written: a transaction that writes does not see the server as a reader does. The places are looked
/// at first, so that none of them can be newer than what is known of the server.
async fn check_places(log: &Inner, consumer: &ConsumerName) -> Result<LaneCount, LogError> {
    let mut tx = transaction::begin(&log.pool, BEGIN_READING).await?;
    let lanes = reader::identity(log, &mut tx).await?.lanes;
    let places = all_places(log, &mut tx, lanes, Some(consumer)).await?.pop();
    let (_, places) = places.ok_or_else(|| unknown(consumer))?;
    let newest: Option<String> = sqlx::query_scalar(log.consumers.membership.newest_xid.clone())
        .fetch_optional(&mut *tx)
        .await
        .map_err(error::log)?;
    let state = reader::state(log, &mut tx).await?;
    tx.commit().await.map_err(error::log)?;
    of_this_server(newest.and_then(|xid| xid.parse().ok()).unwrap_or(0), state.horizon.next_xid)?;
    for track in places.tracks() {
        Place::parse(&track.cursor)?.check(state.identity.id, &state.horizon)?;
    }
    Ok(lanes)
}

/// A log that was moved to another server by dump and restore has rows of transactions that have not been there yet:
/// readers would not see them before the server's own counter has passed them.
fn of_this_server(newest_xid: u64, next_xid: u64) -> Result<(), LogError> {
    if newest_xid < next_xid {
        return Ok(());
    }
    let message = format!(
        "the log has rows of transaction {newest_xid}, but the server is only at {next_xid}: \
         the database was moved here from another server; stop the writers and call `reanchor`"
    );
    Err(LogError::new(LogErrorKind::BadCursor, message))
}

pub(in super::super) async fn renew(log: &Inner, fence: &Fence, lease: Duration) -> Result<Renewal, LogError> {
    let rows = sqlx::query(log.consumers.membership.renew.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(seconds(lease))
        .fetch_all(&log.pool)
        .await
        .map_err(error::log)?;
    let first = rows.first().ok_or_else(|| fenced(fence))?;
    let paused: bool = first.try_get(4).map_err(error::log)?;
    let redrive: bool = first.try_get(5).map_err(error::log)?;
    let standings: Vec<Standing> = rows.iter().map(|row| roster::standing(row, 0)).collect::<Result<_, _>>()?;
    let lanes = lane_count(log).await?;
    let owned = standings.iter().find(|one| one.member == fence.member).map_or(LaneSet::EMPTY, |me| me.lanes);
    let idle = plan(lanes, &standings, fence.member);
    if !idle.changes_anything() {
        return Ok(Renewal { gained: Vec::new(), owned, surplus: idle.surplus, paused, redrive });
    }
    let (gained, surplus) = take_free_lanes(log, fence, lanes).await?;
    let owned = owned.union(lanes_of(&gained));
    let redrive = redrive || (!gained.is_empty() && parking::is_due(log, &fence.consumer, lanes_of(&gained)).await?);
    Ok(Renewal { gained, owned, surplus, paused, redrive })
}

/// Looks again under the lock, and takes what there is.
async fn take_free_lanes(
    log: &Inner,
    fence: &Fence,
    lanes: LaneCount,
) -> Result<(Vec<outbox_core::log::Track>, u32), LogError> {
    let mut tx = transaction::begin(&log.pool, BEGIN).await?;
    let statements = &log.consumers.membership;
    let consumer = sqlx::query(statements.lock_consumer.clone()).bind(fence.consumer.as_str());
    consumer.fetch_optional(&mut *tx).await.map_err(error::log)?.ok_or_else(|| fenced(fence))?;
    let member = sqlx::query(statements.lock_member.clone()).bind(fence.consumer.as_str()).bind(fence.member.0);
    let member = member.bind(fence.epoch as i64).fetch_optional(&mut *tx).await.map_err(error::log)?;
    member.ok_or_else(|| fenced(fence))?;
    let (gained, plan) = roster::balance(log, &mut tx, fence, lanes).await?;
    tx.commit().await.map_err(error::log)?;
    if !gained.lanes().is_empty() {
        tracing::info!(consumer = %fence.consumer, epoch = fence.epoch, lanes = ?gained.lanes(), "took free lanes");
    }
    Ok((gained.into_tracks(), plan.surplus))
}

async fn lane_count(log: &Inner) -> Result<LaneCount, LogError> {
    if let Some(identity) = log.frozen.get() {
        return Ok(identity.lanes);
    }
    let mut conn = log.pool.acquire().await.map_err(error::log)?;
    Ok(reader::identity(log, &mut conn).await?.lanes)
}

pub(in super::super) async fn leave(log: &Inner, fence: &Fence) -> Result<(), LogError> {
    let was_member: bool = sqlx::query_scalar(log.consumers.membership.leave.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .fetch_one(&log.pool)
        .await
        .map_err(error::log)?;
    if was_member { Ok(()) } else { Err(fenced(fence)) }
}

fn seconds(lease: Duration) -> f64 {
    lease.as_secs_f64().min(LONGEST_LEASE)
}
