//! What became of one event.

use chrono::{DateTime, Utc};
use outbox_core::{
    event::{Lane, Sequence},
    log::{ConsumerName, EventStatus, LogError},
};
use sqlx::{SqliteConnection, types::JsonValue};

use super::{
    super::{
        Inner, error,
        reader::{self, time},
    },
    begin_reading, checkpoints,
    roster::{Roster, Trust},
};
use crate::{lagging, parked, stored};

const SET_ASIDE: &str = "SELECT \
    EXISTS (SELECT 1 FROM outbox_discarded WHERE consumer = ?1 AND generation = ?2 AND position = ?3), \
    (SELECT state FROM outbox_parked WHERE consumer = ?1 AND generation = ?2 AND position = ?3), \
    (SELECT lane FROM outbox_event WHERE position = ?3)";

/// The lowest place of a row is no help: another lane may have been at it.
const HISTORY: &str = "SELECT cursor, behind, written_at FROM outbox_checkpoint \
    WHERE consumer = ?1 AND (lanes >> ?2) & 1 = 1 ORDER BY id";

pub(in super::super) async fn event_status(
    log: &Inner,
    consumer: &ConsumerName,
    sequence: Sequence,
) -> Result<Option<EventStatus>, LogError> {
    let mut tx = begin_reading(log).await?;
    let state = reader::state(log, &mut tx).await?;
    let roster = Roster::load(&mut tx, &state, consumer, Trust::AsStored).await?;
    let (discarded, parked, lane): (bool, Option<String>, Option<i64>) = sqlx::query_as(SET_ASIDE)
        .bind(consumer.as_str())
        .bind(i64::from(sequence.generation()))
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
    let Some(lane) = lane.filter(|_| state.generations.include(sequence)) else { return Ok(None) };
    let (lane, position) = (stored::lane(lane)?, sequence.position());
    if roster.places().of_lane(lane).is_none_or(|passed| passed < position) {
        return Ok(Some(EventStatus::Pending));
    }
    Ok(Some(EventStatus::Published(passed_at(&mut tx, consumer, lane, position).await?)))
}

/// When the first checkpoint behind a position was written; `None` when the history does not show the lane in front of
/// it.
async fn passed_at(
    conn: &mut SqliteConnection,
    consumer: &ConsumerName,
    lane: Lane,
    position: u64,
) -> Result<Option<DateTime<Utc>>, LogError> {
    let rows: Vec<(String, Option<JsonValue>, Option<i64>)> = sqlx::query_as(HISTORY)
        .bind(consumer.as_str())
        .bind(i64::from(lane.get()))
        .fetch_all(conn)
        .await
        .map_err(error::log)?;
    let mut in_front = false;
    for (cursor, behind, written_at) in rows {
        if checkpoints::position_in(&cursor, &lagging::from_json(behind.as_ref())?, lane)? >= position {
            return written_at.filter(|_| in_front).map(time).transpose();
        }
        in_front = true;
    }
    Ok(None)
}
