//! Making the places of all consumers places of this server, and positions new that are issued again.

use outbox_core::log::{ConsumerName, Fence, LogError, MemberId, Reanchored, Track};
use sqlx::{PgConnection, SqlStr, types::Uuid};

use super::{
    super::{
        Inner, SchemaName,
        cursor::{Horizon, Place},
        error,
        reader::{self, State},
        transaction,
    },
    places::{Places, all_places},
    roster, sql,
};

/// The plans are pinned, as the reader's are: a dump brings no statistics along.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
    SET LOCAL idle_in_transaction_session_timeout = '5s'; \
    SET LOCAL max_parallel_workers_per_gather = 0; \
    SET LOCAL jit = off; \
    SET LOCAL enable_sort = off; \
    SET LOCAL enable_seqscan = off; \
    SET LOCAL enable_bitmapscan = off";

#[derive(Debug)]
pub(super) struct Sql {
    stop_writers: SqlStr,
    lock_consumers: SqlStr,
    fence: SqlStr,
    highest: SqlStr,
    first_unseen: SqlStr,
    adopt: SqlStr,
    start: SqlStr,
    place: SqlStr,
    forget: SqlStr,
    generation: SqlStr,
    log: SqlStr,
    sequence: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let sql = |text: &str| sql(schema, text);
        Self {
            stop_writers: sql("LOCK TABLE @schema@.outbox_event IN SHARE ROW EXCLUSIVE MODE"),
            lock_consumers: sql("SELECT 1 FROM @schema@.outbox_consumer ORDER BY name FOR NO KEY UPDATE"),
            fence: sql("DELETE FROM @schema@.outbox_member RETURNING consumer, member, epoch, lanes"),
            // A careless restore may have left the sequence behind the rows.
            highest: sql("SELECT greatest(
                    (SELECT @head@ FROM @schema@.outbox_event_position_seq),
                    (SELECT max(position) FROM @schema@.outbox_event),
                    (SELECT max(position) FROM @schema@.outbox_parked),
                    (SELECT max(position) FROM @schema@.outbox_discarded),
                    (SELECT max(from_position) - 1 FROM @schema@.outbox_generation),
                    (SELECT pruned FROM @schema@.outbox_retention)
                )"),
            // The first one above what was passed, or one that was passed by because its transaction was open or had not
            // begun. No row is walked over for being seen, and of those written since only entries of an index are. The
            // order asked for is that of the index that should be used.
            first_unseen: sql("SELECT least(
                    (SELECT position FROM @schema@.outbox_event
                        WHERE position > $2 AND $1 >> lane & 1 = 1 ORDER BY position LIMIT 1),
                    (SELECT min(late.position)
                        FROM pg_snapshot_xip($3::text::pg_snapshot) AS open (xid) CROSS JOIN LATERAL (
                            SELECT e.position FROM @schema@.outbox_event AS e
                            WHERE e.xid = open.xid AND e.position <= $2 AND $1 >> e.lane & 1 = 1
                            ORDER BY e.xid, e.position LIMIT 1
                        ) AS late),
                    (SELECT min(late.position) FROM (
                        SELECT e.position FROM @schema@.outbox_event AS e
                        WHERE $2 > 0 AND e.xid >= pg_snapshot_xmax($3::text::pg_snapshot) AND e.position <= $2
                            AND $1 >> e.lane & 1 = 1
                        ORDER BY e.xid, e.position OFFSET 0
                    ) AS late)
                )"),
            // The first xid that a transaction can have: every snapshot sees it. No writer is at work, so every row is
            // committed, also one whose xid is by chance that of a transaction that runs now.
            adopt: sql("UPDATE @schema@.outbox_event SET xid = '3' WHERE xid >= $1::text::xid8"),
            start: sql("UPDATE @schema@.outbox_consumer SET start_cursor = $2 WHERE name = $1"),
            place: sql("INSERT INTO @schema@.outbox_lane (consumer, lane, cursor)
                SELECT $1, n, $3 FROM generate_series(0, 63) AS n WHERE $2 >> n & 1 = 1
                ON CONFLICT (consumer, lane) DO UPDATE SET cursor = excluded.cursor"),
            forget: sql("DELETE FROM @schema@.outbox_checkpoint"),
            generation: sql("INSERT INTO @schema@.outbox_generation (generation, from_position) VALUES ($1, $2)"),
            log: sql("UPDATE @schema@.outbox_log SET generation = $1"),
            sequence: sql("SELECT setval('@schema@.outbox_event_position_seq', $1)"),
        }
    }
}

/// In one transaction that keeps writers waiting. The old places are compared with the transaction ids that the rows came
/// with, before these are changed. The history of checkpoints speaks of transaction ids that mean nothing any more; it
/// begins anew.
pub(in super::super) async fn reanchor(log: &Inner) -> Result<Reanchored, LogError> {
    let mut tx = transaction::begin(&log.pool, BEGIN).await?;
    let statements = &log.consumers.reanchor;
    sqlx::query(statements.stop_writers.clone()).execute(&mut *tx).await.map_err(error::log)?;
    let state = reader::state(log, &mut tx).await?;
    fence_everybody(log, &mut tx).await?;
    let highest: i64 = sqlx::query_scalar(statements.highest.clone()).fetch_one(&mut *tx).await.map_err(error::log)?;
    let now = Horizon { head: highest as u64, ..state.horizon.clone() };
    let consumers = all_places(log, &mut tx, state.identity.lanes, None).await?;
    for (consumer, places) in &consumers {
        move_here(log, &mut tx, &state, &now, consumer, places).await?;
    }
    sqlx::query(statements.forget.clone()).execute(&mut *tx).await.map_err(error::log)?;
    let adopted = sqlx::query(statements.adopt.clone())
        .bind(state.horizon.snapshot.xmin().to_string())
        .execute(&mut *tx)
        .await
        .map_err(error::log)?;
    let generation = state.generations.next()?;
    begin_generation(log, &mut tx, generation, highest).await?;
    tx.commit().await.map_err(error::log)?;
    tracing::warn!(generation, after = highest, adopted = adopted.rows_affected(), "re-anchored the log");
    Ok(Reanchored { log: state.identity.id, generation, from_position: highest as u64 + 1 })
}

async fn fence_everybody(log: &Inner, conn: &mut PgConnection) -> Result<(), LogError> {
    let statements = &log.consumers.reanchor;
    sqlx::query(statements.lock_consumers.clone()).execute(&mut *conn).await.map_err(error::log)?;
    let members: Vec<(String, Uuid, i64, i64)> =
        sqlx::query_as(statements.fence.clone()).fetch_all(&mut *conn).await.map_err(error::log)?;
    for (consumer, member, epoch, lanes) in members {
        let consumer = ConsumerName::parse(consumer)?;
        let fence = Fence { consumer, member: MemberId(member), epoch: epoch as u64 };
        roster::keep_places(log, conn, &fence, epoch, lanes).await?;
    }
    Ok(())
}

async fn move_here(
    log: &Inner,
    conn: &mut PgConnection,
    state: &State,
    now: &Horizon,
    consumer: &ConsumerName,
    places: &Places,
) -> Result<(), LogError> {
    let mut lowest: Option<Place> = None;
    for Track { cursor, lanes } in places.tracks() {
        let seen = Place::parse(cursor)?.seen();
        let unseen: Option<i64> = sqlx::query_scalar(log.consumers.reanchor.first_unseen.clone())
            .bind(lanes.mask() as i64)
            .bind(seen.upto() as i64)
            .bind(seen.snapshot().to_string())
            .fetch_one(&mut *conn)
            .await
            .map_err(error::log)?;
        let passed = unseen.map_or(now.head, |first| first as u64 - 1);
        let place = Place::after_position(state.identity.id, now.clone(), passed);
        sqlx::query(log.consumers.reanchor.place.clone())
            .bind(consumer.as_str())
            .bind(lanes.mask() as i64)
            .bind(place.to_cursor().as_text())
            .execute(&mut *conn)
            .await
            .map_err(error::log)?;
        if lowest.as_ref().is_none_or(|lowest| place.position() < lowest.position()) {
            lowest = Some(place);
        }
    }
    let start = lowest.unwrap_or_else(|| Place::beginning(state.identity.id));
    sqlx::query(log.consumers.reanchor.start.clone())
        .bind(consumer.as_str())
        .bind(start.to_cursor().as_text())
        .execute(conn)
        .await
        .map_err(error::log)?;
    Ok(())
}

async fn begin_generation(log: &Inner, conn: &mut PgConnection, generation: u16, highest: i64) -> Result<(), LogError> {
    let statements = &log.consumers.reanchor;
    sqlx::query(statements.generation.clone())
        .bind(i32::from(generation))
        .bind(highest + 1)
        .execute(&mut *conn)
        .await
        .map_err(error::log)?;
    sqlx::query(statements.log.clone()).bind(i32::from(generation)).execute(&mut *conn).await.map_err(error::log)?;
    if highest > 0 {
        sqlx::query(statements.sequence.clone()).bind(highest).execute(conn).await.map_err(error::log)?;
    }
    Ok(())
}
