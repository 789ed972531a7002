//! Removing what every consumer has passed, in short steps that nobody waits for.

mod course;
mod ring;
mod step;

use std::time::{Duration, Instant};

use outbox_core::{
    log::{LogError, Pruned, RetentionPolicy},
    retry::Backoff,
};
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use self::{course::GivenUp, step::Done};
use super::{Inner, SchemaName, error};

pub(super) use ring::RING;

/// So many positions in the first step, twice as many in the next one, and so on.
const FIRST: u64 = 1_250;
const MOST: u64 = 5_000;
/// Large payloads make a step long; the next one is then half as wide.
const LONG: Duration = Duration::from_millis(50);
const LEAST: u64 = 50;

/// How often one call tries to lock a leaf.
const LEAF_TRIES: u32 = 3;

#[derive(Debug)]
pub(super) struct Sql {
    keep_anchored: SqlStr,
    lock: SqlStr,
    delete: SqlStr,
    emptied: SqlStr,
    forget_memberships: SqlStr,
    finish: SqlStr,
    oldest: SqlStr,
    is_ring: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let sql = |text: &str| AssertSqlSafe(schema.qualify(text)).into_sql_str();
        Self {
            // Writers take the same lock. Not those of the leaves of a ring, one of which may have to be emptied.
            keep_anchored: sql("LOCK TABLE ONLY @schema@.outbox_event IN ROW EXCLUSIVE MODE"),
            // Whoever finds it locked leaves the work to the other one.
            lock: sql("SELECT pruned, swept, awaited_position, awaited_xid, ring
                FROM @schema@.outbox_retention FOR UPDATE SKIP LOCKED"),
            // From a position on and never from the oldest row: dead rows in front of the mark are not walked again. What
            // ends the step is an event that is too young, and for the second mark one that somebody has not passed. The
            // snapshot is parsed once and not for each row.
            delete: sql("WITH seen AS MATERIALIZED (
                    SELECT $3::text::pg_snapshot AS seen, clock_timestamp() - make_interval(secs => $4) AS old
                ), stop AS MATERIALIZED (
                    SELECT position FROM @schema@.outbox_event
                    WHERE position > $1 AND position <= $2 AND ($4 IS NOT NULL OR $5) AND (
                        created_at > (SELECT old FROM seen)
                        OR ($5 AND NOT pg_visible_in_snapshot(xid, (SELECT seen FROM seen))))
                    ORDER BY position LIMIT 1
                ), reach AS MATERIALIZED (
                    SELECT coalesce((SELECT position - 1 FROM stop), $2) AS position
                ), gone AS (
                    DELETE FROM @schema@.outbox_event
                    WHERE position > $1 AND position <= (SELECT position FROM reach)
                        AND pg_visible_in_snapshot(xid, (SELECT seen FROM seen))
                    RETURNING 1
                ), moved AS (
                    UPDATE @schema@.outbox_retention SET
                        pruned = greatest($6, reach.position),
                        swept = CASE WHEN $5 THEN reach.position ELSE $7 END,
                        awaited_position = $8, awaited_xid = $9, pruned_at = clock_timestamp()
                    FROM reach
                )
                SELECT (SELECT count(*) FROM gone), position FROM reach"),
            emptied: sql("UPDATE @schema@.outbox_retention SET swept = $1, pruned = $2, awaited_position = $3,
                awaited_xid = $4, pruned_at = clock_timestamp()"),
            // Each membership keeps a bounded history of its own checkpoints. That of one which is over is of use only
            // for events that are still there. The memberships are found by skipping from one to the next.
            forget_memberships: sql("WITH RECURSIVE membership AS (
                    (SELECT consumer, epoch FROM @schema@.outbox_checkpoint ORDER BY consumer, epoch LIMIT 1)
                    UNION ALL
                    SELECT next.consumer, next.epoch FROM membership AS m CROSS JOIN LATERAL (
                        SELECT consumer, epoch FROM @schema@.outbox_checkpoint AS c
                        WHERE (c.consumer, c.epoch) > (m.consumer, m.epoch) ORDER BY consumer, epoch LIMIT 1
                    ) AS next
                )
                DELETE FROM @schema@.outbox_checkpoint AS c USING membership AS m, @schema@.outbox_retention AS r
                WHERE c.consumer = m.consumer AND c.epoch = m.epoch AND c.position <= r.swept AND NOT EXISTS (
                    SELECT FROM @schema@.outbox_member AS live
                    WHERE live.consumer = m.consumer AND live.epoch = m.epoch)"),
            finish: sql("UPDATE @schema@.outbox_retention SET pruned_at = clock_timestamp()"),
            oldest: sql("SELECT position, xid::text::bigint,
                    $3 IS NULL OR created_at <= clock_timestamp() - make_interval(secs => $3)
                FROM @schema@.outbox_event WHERE position > $1 AND position <= $2 ORDER BY position LIMIT 1"),
            is_ring: sql("SELECT ring FROM @schema@.outbox_retention"),
        }
    }
}

/// See [`LogAdmin::prune`](outbox_core::log::LogAdmin::prune).
pub(super) async fn prune(log: &Inner, policy: &RetentionPolicy) -> Result<Pruned, LogError> {
    let mut pruned = Pruned::default();
    let (mut given_up, mut positions, mut waited, mut counted) = (GivenUp::default(), FIRST, 0, None);
    let mut steps = policy.steps.max(1);
    while steps > 0 {
        let began = Instant::now();
        match step::step(log, policy, positions, given_up, counted).await? {
            Done::Elsewhere => {
                tracing::debug!("somebody else prunes this log at the moment");
                return Ok(pruned);
            }
            Done::Nothing { held_back_by } => return Ok(Pruned { more: false, held_back_by, ..pruned }),
            Done::Removed { events, more, given_up: now } => {
                pruned.removed += events;
                pruned.more = more;
                given_up = now;
                steps -= 1;
            }
            Done::LeafInUse(leaf) => {
                counted = Some(leaf);
                waited += 1;
                given_up.emptying = waited >= LEAF_TRIES;
                let pause = Backoff::default().delay(waited, &mut rand::rng());
                tokio::time::sleep(pause).await;
                continue;
            }
        }
        let slow = began.elapsed() > LONG;
        positions = if slow { (positions / 2).max(LEAST) } else { (positions * 2).min(MOST) };
    }
    Ok(pruned)
}

/// Checks that the log is a ring if one was asked for; without that it is taken as it is.
///
/// # Errors
/// [`Incompatible`](outbox_core::log::LogErrorKind::Incompatible).
pub(super) async fn same_kind(log: &Inner) -> Result<(), LogError> {
    if !log.ring {
        return Ok(());
    }
    let is_ring: Option<bool> =
        sqlx::query_scalar(log.retention.is_ring.clone()).fetch_optional(&log.pool).await.map_err(error::log)?;
    ring::same_kind(is_ring == Some(true), log.ring)
}
