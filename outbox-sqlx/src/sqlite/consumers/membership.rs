//! Who owns which lanes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use outbox_core::{
    event::{LaneCount, LaneSet},
    log::{
        Assignment, Claim, ConsumerName, Fence, LogError, MemberId, Renewal, Track,
        balance::{Plan, Standing, plan},
        lanes_of as lanes_named,
    },
};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{
        Inner, error,
        reader::{self, State},
    },
    begin, checkpoints, lanes_of, now,
    places::Places,
    redriving,
    roster::{Member, Roster, Trust, give_back},
};
use crate::refusals::fenced;

const NEXT_EPOCH: &str = "UPDATE outbox_consumer SET epoch = epoch + 1 WHERE name = ?1 RETURNING epoch";

const ADD_MEMBER: &str = "INSERT INTO outbox_member (consumer, member, epoch, claim_all, expires, joined_at) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

const TAKE: &str = "DELETE FROM outbox_lane WHERE consumer = ?1 AND (?2 >> lane) & 1 = 1";

const RENEW: &str = "UPDATE outbox_member SET expires = ?4 WHERE consumer = ?1 AND member = ?2 AND epoch = ?3";

const STANDINGS: &str = "SELECT c.paused, m.member, m.claim_all, m.lanes, m.expires > ?2 \
    FROM outbox_consumer AS c JOIN outbox_member AS m ON m.consumer = c.name WHERE c.name = ?1";

pub(in super::super) async fn join(
    log: &Inner,
    consumer: &ConsumerName,
    member: MemberId,
    claim: Claim,
    lease: Duration,
) -> Result<Assignment, LogError> {
    let mut tx = begin(log).await?;
    let state = reader::state(log, &mut tx).await?;
    let mut roster = Roster::load(&mut tx, &state, consumer, Trust::Checked).await?;
    roster.expel(&mut tx, &state, consumer, member).await?;
    let fence = add_member(&mut tx, &mut roster, consumer, member, claim, lease).await?;
    let plan = plan(state.identity.lanes, &roster.standings(), member);
    let gained = apply(&mut tx, &state, &mut roster, &fence, &plan).await?;
    tx.commit().await.map_err(error::log)?;
    tracing::info!(%consumer, member = %member.0, epoch = fence.epoch, lanes = ?gained.lanes(), "joined");
    Ok(Assignment { fence, tracks: gained.to_tracks(&state), paused: roster.paused })
}

async fn add_member(
    conn: &mut SqliteConnection,
    roster: &mut Roster,
    consumer: &ConsumerName,
    member: MemberId,
    claim: Claim,
    lease: Duration,
) -> Result<Fence, LogError> {
    let epoch: i64 =
        sqlx::query_scalar(NEXT_EPOCH).bind(consumer.as_str()).fetch_one(&mut *conn).await.map_err(error::log)?;
    let expires = end_of(lease);
    sqlx::query(ADD_MEMBER)
        .bind(consumer.as_str())
        .bind(member.0)
        .bind(epoch)
        .bind(claim == Claim::All)
        .bind(expires)
        .bind(now())
        .execute(conn)
        .await
        .map_err(error::log)?;
    let epoch = epoch as u64;
    roster.members.push(Member { id: member, epoch, claim, expires, places: Places::default() });
    Ok(Fence { consumer: consumer.clone(), member, epoch })
}

/// Expels whom the plan expels and gives the member what it takes, at the places where these lanes stand.
async fn apply(
    conn: &mut SqliteConnection,
    state: &State,
    roster: &mut Roster,
    fence: &Fence,
    plan: &Plan,
) -> Result<Places, LogError> {
    for expelled in &plan.expelled {
        tracing::info!(consumer = %fence.consumer, member = %expelled.0, "expelled: its lease ended");
        roster.expel(conn, state, &fence.consumer, *expelled).await?;
    }
    let gained = roster.free.only(plan.take);
    if gained.lanes().is_empty() {
        return Ok(gained);
    }
    let mut mine = roster.member(fence).map(|member| member.places.clone()).unwrap_or_default();
    mine.put_all(&gained);
    checkpoints::write(conn, state, fence, &mine, None).await?;
    sqlx::query(TAKE)
        .bind(fence.consumer.as_str())
        .bind(gained.lanes().mask() as i64)
        .execute(conn)
        .await
        .map_err(error::log)?;
    Ok(gained)
}

/// One small write when nothing changes; the look at the others holds nobody up.
pub(in super::super) async fn renew(log: &Inner, fence: &Fence, lease: Duration) -> Result<Renewal, LogError> {
    let renewed = sqlx::query(RENEW)
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(end_of(lease))
        .execute(&log.write)
        .await
        .map_err(error::log)?;
    if renewed.rows_affected() == 0 {
        return Err(fenced(fence));
    }
    let mut conn = log.read.acquire().await.map_err(error::log)?;
    let (standings, paused) = standings(&mut conn, &fence.consumer).await?;
    let lanes = lane_count(log, &mut conn).await?;
    let mut due = plan(lanes, &standings, fence.member);
    let mut gained = Vec::new();
    if due.changes_anything() {
        drop(conn);
        (gained, due) = take(log, fence).await?;
        conn = log.read.acquire().await.map_err(error::log)?;
    }
    let before = standings.iter().find(|standing| standing.member == fence.member);
    let owned = before.map_or(LaneSet::EMPTY, |me| me.lanes).union(lanes_named(&gained));
    let redrive = redriving::is_due(&mut conn, &fence.consumer, owned).await?;
    Ok(Renewal { gained, owned, surplus: due.surplus, paused, redrive })
}

/// Looks again under the lock, and takes what there is.
async fn take(log: &Inner, fence: &Fence) -> Result<(Vec<Track>, Plan), LogError> {
    let mut tx = begin(log).await?;
    let state = reader::state(log, &mut tx).await?;
    lanes_of(&mut tx, fence).await?;
    let mut roster = Roster::load(&mut tx, &state, &fence.consumer, Trust::Checked).await?;
    let plan = plan(state.identity.lanes, &roster.standings(), fence.member);
    let gained = apply(&mut tx, &state, &mut roster, fence, &plan).await?;
    tx.commit().await.map_err(error::log)?;
    if !gained.lanes().is_empty() {
        tracing::info!(consumer = %fence.consumer, member = %fence.member.0, lanes = ?gained.lanes(), "took free lanes");
    }
    Ok((gained.to_tracks(&state), plan))
}

async fn standings(conn: &mut SqliteConnection, consumer: &ConsumerName) -> Result<(Vec<Standing>, bool), LogError> {
    let rows = sqlx::query(STANDINGS).bind(consumer.as_str()).bind(now()).fetch_all(conn).await.map_err(error::log)?;
    let standing = |row: &SqliteRow| {
        let (claim_all, lanes): (bool, i64) = (row.try_get(2)?, row.try_get(3)?);
        let claim = if claim_all { Claim::All } else { Claim::Share };
        let (member, lanes) = (MemberId(row.try_get(1)?), LaneSet::from_mask(lanes as u64));
        Ok(Standing { member, claim, lanes, live: row.try_get(4)? })
    };
    let standings: Result<Vec<Standing>, sqlx::Error> = rows.iter().map(standing).collect();
    let paused = rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(error::log)?;
    Ok((standings.map_err(error::log)?, paused))
}

async fn lane_count(log: &Inner, conn: &mut SqliteConnection) -> Result<LaneCount, LogError> {
    match log.frozen.get() {
        Some(identity) => Ok(identity.lanes),
        None => Ok(reader::identity(log, conn).await?.lanes),
    }
}

pub(in super::super) async fn release(log: &Inner, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
    checkpoints::check_form(tracks)?;
    let mut tx = begin(log).await?;
    let state = reader::state(log, &mut tx).await?;
    let owned = lanes_of(&mut tx, fence).await?;
    if !lanes_named(tracks).difference(owned).is_empty() {
        return Err(fenced(fence));
    }
    let roster = Roster::load(&mut tx, &state, &fence.consumer, Trust::AsStored).await?;
    let given = Places::named_by(fence, tracks, &state)?;
    if let Some(member) = roster.member(fence)
        && !given.lanes().is_empty()
    {
        let mut places = member.places.clone();
        places.put_all(&given);
        checkpoints::write(&mut tx, &state, fence, &places, Some(now())).await?;
        give_back(&mut tx, &state, &fence.consumer, &given).await?;
        keep(&mut tx, fence, owned.difference(given.lanes())).await?;
    }
    tx.commit().await.map_err(error::log)
}

/// Makes these the only lanes of a member.
async fn keep(conn: &mut SqliteConnection, fence: &Fence, lanes: LaneSet) -> Result<(), LogError> {
    let sql = "UPDATE outbox_member SET lanes = ?4 WHERE consumer = ?1 AND member = ?2 AND epoch = ?3";
    sqlx::query(sql)
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(lanes.mask() as i64)
        .execute(conn)
        .await
        .map_err(error::log)?;
    Ok(())
}

pub(in super::super) async fn leave(log: &Inner, fence: &Fence) -> Result<(), LogError> {
    let mut tx = begin(log).await?;
    let state = reader::state(log, &mut tx).await?;
    lanes_of(&mut tx, fence).await?;
    let mut roster = Roster::load(&mut tx, &state, &fence.consumer, Trust::AsStored).await?;
    roster.expel(&mut tx, &state, &fence.consumer, fence.member).await?;
    tx.commit().await.map_err(error::log)
}

/// In milliseconds; a lease that is too long for the clock never ends.
fn end_of(lease: Duration) -> i64 {
    let never = DateTime::<Utc>::MAX_UTC.timestamp_millis();
    i64::try_from(lease.as_millis()).map_or(never, |lease| now().saturating_add(lease).min(never))
}
