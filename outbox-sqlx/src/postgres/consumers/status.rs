//! What became of one event, and the events as they stand.

use chrono::{DateTime, Utc};
use outbox_core::{
    event::{Lane, LaneSet, RecordedEvent, Sequence},
    log::{ConsumerName, Cursor, EventStatus, LogError},
};
use sqlx::{PgConnection, SqlStr, types::JsonValue};

use super::{
    super::{Inner, SchemaName, cursor::Place, error, reader, transaction},
    BEGIN_READING,
    checkpoints::{LAST_OF_EACH, kept},
    generations,
    places::all_places,
    set_aside::{EVENT, event_columns},
    sql,
};
use crate::{
    lagging, parked,
    refusals::unknown,
    stored::{self, Decoder},
};

/// How many checkpoints are looked at in the first statement; twice as many in the next one, and so on. Most are asked
/// about events of late.
const FIRST_PAGE: i64 = 64;

#[derive(Debug)]
pub(super) struct Sql {
    set_aside: SqlStr,
    history: SqlStr,
    tail: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let columns = EVENT.join(", ");
        Self {
            set_aside: sql(
                schema,
                "SELECT
                    (SELECT state FROM @schema@.outbox_parked
                        WHERE consumer = $1 AND position = $3 AND generation = $2),
                    EXISTS (SELECT FROM @schema@.outbox_discarded
                        WHERE consumer = $1 AND position = $3 AND generation = $2),
                    (SELECT lane FROM @schema@.outbox_event WHERE position = $3),
                    (SELECT xid::text FROM @schema@.outbox_event WHERE position = $3)",
            ),
            // The newest of all are among the newest of each membership.
            history: sql(
                schema,
                &format!(
                    "{LAST_OF_EACH} SELECT c.id, c.lanes, c.cursor, c.behind, c.written_at
                    FROM last CROSS JOIN LATERAL (
                        SELECT c.* FROM @schema@.outbox_checkpoint AS c
                        WHERE c.consumer = $1 AND c.epoch = last.epoch AND {} AND c.id < $2
                        ORDER BY c.nth DESC LIMIT $3
                    ) AS c
                    ORDER BY c.id DESC LIMIT $3",
                    kept("c")
                ),
            ),
            tail: sql(
                schema,
                &format!("SELECT {columns} FROM @schema@.outbox_event WHERE position > $1 ORDER BY position LIMIT $2"),
            ),
        }
    }
}

pub(in super::super) async fn event_status(
    log: &Inner,
    consumer: &ConsumerName,
    sequence: Sequence,
) -> Result<Option<EventStatus>, LogError> {
    let mut tx = transaction::begin(&log.pool, BEGIN_READING).await?;
    let lanes = reader::identity(log, &mut tx).await?.lanes;
    // Before the event is looked for: what they have passed was there.
    let places = all_places(log, &mut tx, lanes, Some(consumer)).await?.pop();
    let (_, places) = places.ok_or_else(|| unknown(consumer))?;
    let (parked, discarded, lane, xid): (Option<String>, bool, Option<i16>, Option<String>) =
        sqlx::query_as(log.consumers.status.set_aside.clone())
            .bind(consumer.as_str())
            .bind(i32::from(sequence.generation()))
            .bind(sequence.position() as i64)
            .fetch_one(&mut *tx)
            .await
            .map_err(error::log)?;
    if let Some(parked) = parked {
        return Ok(Some(EventStatus::Parked(parked::state(&parked)?)));
    }
    if discarded {
        return Ok(Some(EventStatus::Discarded));
    }
    let (Some(lane), Some(xid)) = (lane, xid) else { return Ok(None) };
    if !generations(log, &mut tx).await?.include(sequence) {
        return Ok(None);
    }
    let event = Event { lane: stored::lane(i64::from(lane))?, xid: number(&xid)?, position: sequence.position() };
    let place = places.tracks().iter().find(|track| track.lanes.contains(event.lane));
    let passed = place.map_or(Ok(false), |track| event.passed_by(&track.cursor))?;
    if !passed {
        return Ok(Some(EventStatus::Pending));
    }
    Ok(Some(EventStatus::Published(passed_at(log, &mut tx, consumer, &event).await?)))
}

struct Event {
    lane: Lane,
    xid: u64,
    position: u64,
}

impl Event {
    fn passed_by(&self, cursor: &Cursor) -> Result<bool, LogError> {
        Ok(Place::parse(cursor)?.seen().contains(self.xid, self.position))
    }
}

fn number(xid: &str) -> Result<u64, LogError> {
    xid.parse().map_err(|_| stored::corrupt(format!("{xid:?} is no transaction id")))
}

/// Its number, its lanes, the place of most of them, those that lag, and when it was written.
type Checkpoint = (i64, i64, String, Option<JsonValue>, Option<DateTime<Utc>>);

/// When the first checkpoint behind an event was written; `None` when the history does not show the lane in front of it.
async fn passed_at(
    log: &Inner,
    conn: &mut PgConnection,
    consumer: &ConsumerName,
    event: &Event,
) -> Result<Option<DateTime<Utc>>, LogError> {
    let (mut before, mut page, mut first) = (i64::MAX, FIRST_PAGE, None);
    loop {
        let rows: Vec<Checkpoint> = sqlx::query_as(log.consumers.status.history.clone())
            .bind(consumer.as_str())
            .bind(before)
            .bind(page)
            .fetch_all(&mut *conn)
            .await
            .map_err(error::log)?;
        let Some((oldest, ..)) = rows.last() else { return Ok(None) };
        (before, page) = (*oldest, page * 2);
        let of_lane = rows.into_iter().filter(|row| LaneSet::from_mask(row.1 as u64).contains(event.lane));
        for (_, _, cursor, behind, written_at) in of_lane {
            let lagging = lagging::from_json(behind.as_ref())?;
            let lags = lagging.into_iter().find(|track| track.lanes.contains(event.lane));
            if !event.passed_by(&lags.map_or_else(|| Cursor::from_text(cursor), |track| track.cursor))? {
                return Ok(first);
            }
            // Where a member got the lane it is not news.
            first = written_at.or(first);
        }
    }
}

pub(in super::super) async fn tail(
    log: &Inner,
    after: Option<Sequence>,
    limit: usize,
) -> Result<Vec<RecordedEvent>, LogError> {
    let mut conn = log.pool.acquire().await.map_err(error::log)?;
    let id = reader::identity(log, &mut conn).await?.id;
    let rows = sqlx::query(log.consumers.status.tail.clone())
        .bind(after.map_or(0, |after| after.position() as i64))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *conn)
        .await
        .map_err(error::log)?;
    // After the rows, so that it knows the generation of each.
    let mut decoder = Decoder::new(id, generations(log, &mut conn).await?);
    rows.iter().map(|row| decoder.event(&event_columns(row)?)).collect()
}
