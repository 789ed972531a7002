//! How far members are.

use outbox_core::log::{ConsumerName, Fence, LogError, LogErrorKind, Progress, Track};
use sqlx::{PgConnection, SqlStr, types::JsonValue};

use super::{
    super::{Inner, SchemaName, error, reader, transaction},
    BEGIN_READING, log_id,
    places::{Places, all_places},
    sql,
};
use crate::{
    lagging,
    refusals::{fenced, unknown},
};

/// How many checkpoints of a membership are kept, for
/// [`EventStatus::Published`](outbox_core::log::EventStatus::Published).
pub(super) const HISTORY: i64 = 10_000;

/// One checkpoint trims the oldest one; the span is for those that others failed to trim.
const TRIM_SPAN: i64 = 100;

/// The memberships of consumer `$1` that have a history, and the number of the last checkpoint of each, newest first:
/// skipping from one to the next, from above, because dead rows of trimmed ones lie below.
pub(super) const LAST_OF_EACH: &str = "WITH RECURSIVE last AS (
        (SELECT c.epoch, c.nth FROM @schema@.outbox_checkpoint AS c WHERE c.consumer = $1
            ORDER BY c.epoch DESC, c.nth DESC LIMIT 1)
        UNION ALL
        SELECT next.epoch, next.nth FROM last CROSS JOIN LATERAL (
            SELECT c.epoch, c.nth FROM @schema@.outbox_checkpoint AS c WHERE c.consumer = $1 AND c.epoch < last.epoch
            ORDER BY c.epoch DESC, c.nth DESC LIMIT 1
        ) AS next
    )";

/// Which of them are not trimmed: nothing is looked for among the dead rows below.
pub(super) fn kept(checkpoint: &str) -> String {
    format!("{checkpoint}.nth > last.nth - {}", HISTORY + TRIM_SPAN)
}

#[derive(Debug)]
pub(super) struct Sql {
    checkpoint: SqlStr,
    gained: SqlStr,
    release: SqlStr,
    head: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        // The trimming has both ends, so that no statement walks over rows deleted long ago, which stay in the index for
        // as long as some transaction might see them. They are numbered without gaps. As
        // subqueries the ends are known before the index is scanned; joined they would be a filter.
        let checkpoint = format!(
            "WITH fence AS MATERIALIZED (
                SELECT $8 > pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS beyond FROM @schema@.outbox_member
                WHERE consumer = $1 AND member = $2 AND epoch = $3 AND lanes = $4 FOR SHARE
            ), last AS MATERIALIZED (
                SELECT coalesce((SELECT nth FROM @schema@.outbox_checkpoint
                    WHERE consumer = $1 AND epoch = $3 ORDER BY nth DESC LIMIT 1), 0) AS nth FROM fence WHERE NOT beyond
            ), written AS (
                INSERT INTO @schema@.outbox_checkpoint (consumer, member, epoch, nth, lanes, cursor, behind, position)
                SELECT $1, $2, $3, last.nth + 1, $4, $5, $6, $7 FROM last
                WHERE $4 <> 0 ON CONFLICT DO NOTHING RETURNING nth
            ), trimmed AS (
                DELETE FROM @schema@.outbox_checkpoint WHERE consumer = $1 AND epoch = $3
                    AND nth <= (SELECT nth - {HISTORY} FROM written)
                    AND nth > (SELECT nth - {HISTORY} - {TRIM_SPAN} FROM written)
            )
            SELECT beyond, $4 = 0 OR EXISTS (SELECT FROM written) FROM fence"
        );
        // Of the lanes that stay the places are those of the last checkpoint.
        let release = "WITH given AS MATERIALIZED (
                UPDATE @schema@.outbox_member SET lanes = lanes & ~$4::bigint
                WHERE consumer = $1 AND member = $2 AND epoch = $3 AND lanes & $4 = $4
                    AND $8 <= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
                RETURNING 1
            ), freed AS (
                INSERT INTO @schema@.outbox_lane (consumer, lane, cursor)
                SELECT $1, n, t.cursor FROM given
                CROSS JOIN unnest($5::bigint[], $6::text[]) AS t (lanes, cursor)
                JOIN generate_series(0, 63) AS n ON t.lanes >> n & 1 = 1
                ON CONFLICT (consumer, lane) DO UPDATE SET cursor = excluded.cursor
            ), written AS (
                INSERT INTO @schema@.outbox_checkpoint (consumer, member, epoch, nth, lanes, cursor, behind, position)
                SELECT $1, $2, $3, last.nth + 1, last.lanes, last.cursor, $7 || coalesce(last.behind, '[]'), last.position
                FROM given CROSS JOIN (
                    SELECT * FROM @schema@.outbox_checkpoint WHERE consumer = $1 AND epoch = $3 ORDER BY nth DESC LIMIT 1
                ) AS last
                WHERE $4 <> 0 ON CONFLICT DO NOTHING
            )
            SELECT 1 FROM given";
        Self {
            checkpoint: sql(schema, &checkpoint),
            gained: sql(
                schema,
                "INSERT INTO @schema@.outbox_checkpoint
                    (consumer, member, epoch, nth, lanes, cursor, behind, position, written_at)
                SELECT $1, $2, $3, coalesce(max(nth), 0) + 1, $4, $5, $6, $7, NULL
                FROM @schema@.outbox_checkpoint WHERE consumer = $1 AND epoch = $3",
            ),
            release: sql(schema, release),
            head: sql(schema, "SELECT @head@ FROM @schema@.outbox_event_position_seq"),
        }
    }
}

pub(in super::super) async fn checkpoint(log: &Inner, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
    let places = Places::named_by(fence, tracks, log_id(log).await?)?;
    // Two at the same moment get the same number, and one of them has to take the next.
    for _ in 0..10 {
        let (cursor, behind) = columns(&places);
        let written: Option<(bool, bool)> = sqlx::query_as(log.consumers.checkpoints.checkpoint.clone())
            .bind(fence.consumer.as_str())
            .bind(fence.member.0)
            .bind(fence.epoch as i64)
            .bind(places.lanes().mask() as i64)
            .bind(cursor)
            .bind(behind)
            .bind(places.lowest()? as i64)
            .bind(places.reached_xid()? as i64)
            .fetch_optional(&log.pool)
            .await
            .map_err(error::log)?;
        match written.ok_or_else(|| fenced(fence))? {
            (true, _) => return Err(beyond()),
            (false, true) => return Ok(()),
            (false, false) => {}
        }
    }
    let message = "other checkpoints of this member are being written at the same time; try again";
    Err(LogError::new(LogErrorKind::Unavailable, message))
}

/// A member that outlived a restore of the database would leave a place that the log has not reached again.
fn beyond() -> LogError {
    let message = "the place is beyond what the server knows: the database was restored to an earlier time, or this is \
        another server; stop the writers and call `reanchor`";
    LogError::new(LogErrorKind::BadCursor, message)
}

fn columns(places: &Places) -> (&str, Option<JsonValue>) {
    places.split().map_or(("", None), |(common, others)| (common.as_text(), lagging::to_json(&others)))
}

/// Where the lanes of a member stand now that it got some; the caller's transaction holds the member's row.
pub(super) async fn write_gained(
    log: &Inner,
    conn: &mut PgConnection,
    fence: &Fence,
    places: &Places,
) -> Result<(), LogError> {
    let (cursor, behind) = columns(places);
    sqlx::query(log.consumers.checkpoints.gained.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(places.lanes().mask() as i64)
        .bind(cursor)
        .bind(behind)
        .bind(places.lowest()? as i64)
        .execute(conn)
        .await
        .map_err(error::log)?;
    Ok(())
}

pub(in super::super) async fn release(log: &Inner, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
    let places = Places::named_by(fence, tracks, log_id(log).await?)?;
    let lanes: Vec<i64> = places.tracks().iter().map(|track| track.lanes.mask() as i64).collect();
    let cursors: Vec<&str> = places.tracks().iter().map(|track| track.cursor.as_text()).collect();
    let given = sqlx::query(log.consumers.checkpoints.release.clone())
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(places.lanes().mask() as i64)
        .bind(lanes)
        .bind(cursors)
        .bind(lagging::to_json(places.tracks()))
        .bind(places.reached_xid()? as i64)
        .fetch_optional(&log.pool)
        .await
        .map_err(error::log)?;
    given.map(drop).ok_or_else(|| fenced(fence))
}

pub(in super::super) async fn progress(log: &Inner, consumer: &ConsumerName) -> Result<Progress, LogError> {
    let mut tx = transaction::begin(&log.pool, BEGIN_READING).await?;
    let lanes = reader::identity(log, &mut tx).await?.lanes;
    let places = all_places(log, &mut tx, lanes, Some(consumer)).await?.pop();
    // Last, so that no place is beyond it.
    let head = head(log, &mut tx).await?;
    tx.commit().await.map_err(error::log)?;
    let (_, places) = places.ok_or_else(|| unknown(consumer))?;
    Ok(Progress { position: places.lowest()?, tracks: places.into_tracks(), head })
}

/// The highest position issued; 0 when none was.
pub(super) async fn head(log: &Inner, conn: &mut PgConnection) -> Result<u64, LogError> {
    let head: i64 =
        sqlx::query_scalar(log.consumers.checkpoints.head.clone()).fetch_one(conn).await.map_err(error::log)?;
    Ok(head as u64)
}
