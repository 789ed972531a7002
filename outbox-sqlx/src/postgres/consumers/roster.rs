//! Who is a member, who is expelled, and who gets which lanes.

use outbox_core::{
    event::{LaneCount, LaneSet},
    log::{
        Claim, Cursor, Fence, LogError, MemberId,
        balance::{Plan, Standing, plan},
    },
};
use sqlx::{PgConnection, Row as _, SqlStr, postgres::PgRow};

use super::{
    super::{Inner, SchemaName, error},
    checkpoints,
    places::Places,
    sql,
};
use crate::stored;

#[derive(Debug)]
pub(super) struct Sql {
    standings: SqlStr,
    expel: SqlStr,
    keep_places: SqlStr,
    take: SqlStr,
    own: SqlStr,
    mine: SqlStr,
    start: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let sql = |text| sql(schema, text);
        Self {
            standings: sql("SELECT member, claim_all, lanes, member = $2 OR expires > clock_timestamp()
                FROM @schema@.outbox_member WHERE consumer = $1"),
            // Waits for what the member is just writing. One that renewed in the meantime stays.
            expel: sql("DELETE FROM @schema@.outbox_member
                WHERE consumer = $1 AND member = ANY ($2) AND expires <= clock_timestamp() RETURNING epoch, lanes"),
            keep_places: sql("SELECT @schema@.outbox_keep_places($1, $2, $3)"),
            take: sql("DELETE FROM @schema@.outbox_lane WHERE consumer = $1 AND ($2 >> lane) & 1 = 1
                RETURNING lane, cursor"),
            own: sql("UPDATE @schema@.outbox_member SET lanes = lanes | $4
                WHERE consumer = $1 AND member = $2 AND epoch = $3 RETURNING lanes"),
            mine: sql("SELECT lanes, cursor, behind FROM @schema@.outbox_checkpoint
                WHERE consumer = $1 AND epoch = $2 ORDER BY nth DESC LIMIT 1"),
            start: sql("SELECT start_cursor FROM @schema@.outbox_consumer WHERE name = $1"),
        }
    }
}

/// Applies the rule for one member; returns the lanes it got, at the places where they stand. The caller's transaction
/// holds the consumer's row, so that nobody else takes lanes meanwhile.
pub(super) async fn balance(
    log: &Inner,
    conn: &mut PgConnection,
    fence: &Fence,
    lanes: LaneCount,
) -> Result<(Places, Plan), LogError> {
    loop {
        let plan = plan(lanes, &standings(log, conn, fence).await?, fence.member);
        if expel(log, conn, fence, &plan.expelled).await? < plan.expelled.len() {
            // Somebody renewed at the last moment.
            continue;
        }
        let gained = take(log, conn, fence, plan.take).await?;
        return Ok((gained, plan));
    }
}

async fn standings(log: &Inner, conn: &mut PgConnection, fence: &Fence) -> Result<Vec<Standing>, LogError> {
    let rows = sqlx::query(log.consumers.roster.standings.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .fetch_all(conn)
        .await
        .map_err(error::log)?;
    rows.iter().map(|row| standing(row, 0)).collect()
}

/// From four columns: member, whether it claims all lanes, its lanes, whether it is live.
pub(super) fn standing(row: &PgRow, first: usize) -> Result<Standing, LogError> {
    let columns = || -> Result<Standing, sqlx::Error> {
        let (claim_all, lanes): (bool, i64) = (row.try_get(first + 1)?, row.try_get(first + 2)?);
        let claim = if claim_all { Claim::All } else { Claim::Share };
        let member = MemberId(row.try_get(first)?);
        Ok(Standing { member, claim, lanes: LaneSet::from_mask(lanes as u64), live: row.try_get(first + 3)? })
    };
    columns().map_err(error::log)
}

/// Returns how many of them were.
async fn expel(log: &Inner, conn: &mut PgConnection, fence: &Fence, members: &[MemberId]) -> Result<usize, LogError> {
    if members.is_empty() {
        return Ok(0);
    }
    let members: Vec<_> = members.iter().map(|member| member.0).collect();
    let expelled: Vec<(i64, i64)> = sqlx::query_as(log.consumers.roster.expel.clone())
        .bind(fence.consumer.as_str())
        .bind(members)
        .fetch_all(&mut *conn)
        .await
        .map_err(error::log)?;
    for (epoch, lanes) in &expelled {
        tracing::info!(consumer = %fence.consumer, epoch, "expelled a member whose lease had ended");
        keep_places(log, conn, fence, *epoch, *lanes).await?;
    }
    Ok(expelled.len())
}

/// Keeps the places of lanes that a membership had when it ended. A statement of its own: its snapshot has what that
/// member wrote last.
pub(super) async fn keep_places(
    log: &Inner,
    conn: &mut PgConnection,
    fence: &Fence,
    epoch: i64,
    lanes: i64,
) -> Result<(), LogError> {
    sqlx::query(log.consumers.roster.keep_places.clone())
        .bind(fence.consumer.as_str())
        .bind(epoch)
        .bind(lanes)
        .execute(conn)
        .await
        .map_err(error::log)?;
    Ok(())
}

async fn take(log: &Inner, conn: &mut PgConnection, fence: &Fence, lanes: LaneSet) -> Result<Places, LogError> {
    let mut gained = Places::default();
    if lanes.is_empty() {
        return Ok(gained);
    }
    let statements = &log.consumers.roster;
    let start: String = sqlx::query_scalar(statements.start.clone())
        .bind(fence.consumer.as_str())
        .fetch_one(&mut *conn)
        .await
        .map_err(error::log)?;
    gained.put(&Cursor::from_text(start), lanes);
    let free: Vec<(i16, String)> = sqlx::query_as(statements.take.clone())
        .bind(fence.consumer.as_str())
        .bind(lanes.mask() as i64)
        .fetch_all(&mut *conn)
        .await
        .map_err(error::log)?;
    for (lane, cursor) in free {
        gained.put(&Cursor::from_text(cursor), LaneSet::from_iter([stored::lane(i64::from(lane))?]));
    }
    let owned: i64 = sqlx::query_scalar(statements.own.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(lanes.mask() as i64)
        .fetch_one(&mut *conn)
        .await
        .map_err(error::log)?;
    let before = LaneSet::from_mask(owned as u64).difference(lanes);
    let mut mine = mine(log, conn, fence).await?.only(before);
    mine.put_all(&gained);
    checkpoints::write_gained(log, conn, fence, &mine).await?;
    Ok(gained)
}

async fn mine(log: &Inner, conn: &mut PgConnection, fence: &Fence) -> Result<Places, LogError> {
    let row = sqlx::query(log.consumers.roster.mine.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.epoch as i64)
        .fetch_optional(conn)
        .await
        .map_err(error::log)?;
    row.map_or_else(|| Ok(Places::default()), |row| Places::stored(&row, 0))
}
