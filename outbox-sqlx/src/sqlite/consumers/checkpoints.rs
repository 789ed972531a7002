//! How far members are.

use outbox_core::{
    event::Lane,
    log::{ConsumerName, Cursor, Fence, LogError, Progress, Track, lanes_of as lanes_named},
};
use sqlx::SqliteConnection;

use super::{
    super::{
        Inner,
        cursor::Place,
        error,
        reader::{self, State},
    },
    begin, begin_reading, lanes_of, now,
    places::{Places, cursor},
    roster::{Roster, Trust},
};
use crate::{lagging, refusals::fenced};

/// How many checkpoints of a consumer are kept, for [`EventStatus::Published`](outbox_core::log::EventStatus::Published).
const HISTORY: i64 = 10_000;

const WRITE: &str = "INSERT INTO outbox_checkpoint \
    (consumer, id, member, epoch, lanes, cursor, behind, position, written_at) \
    VALUES (?1, 1 + coalesce((SELECT id FROM outbox_checkpoint WHERE consumer = ?1 ORDER BY id DESC LIMIT 1), 0), \
    ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id";

const POINT: &str =
    "UPDATE outbox_member SET checkpoint = ?4, lanes = ?5 WHERE consumer = ?1 AND member = ?2 AND epoch = ?3";

/// The newest one of a member has its places, however old it is.
const TRIM: &str = "DELETE FROM outbox_checkpoint WHERE consumer = ?1 AND id <= ?2 \
    AND id NOT IN (SELECT checkpoint FROM outbox_member WHERE consumer = ?1 AND checkpoint IS NOT NULL)";

pub(in super::super) async fn checkpoint(log: &Inner, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
    check_form(tracks)?;
    let mut tx = begin(log).await?;
    let state = reader::state(log, &mut tx).await?;
    let owned = lanes_of(&mut tx, fence).await?;
    if owned != lanes_named(tracks) {
        return Err(fenced(fence));
    }
    let places = Places::named_by(fence, tracks, &state)?;
    if !places.lanes().is_empty() {
        write(&mut tx, &state, fence, &places, Some(now())).await?;
    }
    tx.commit().await.map_err(error::log)
}

/// What is no cursor of any such log is refused before anything is locked.
pub(super) fn check_form(tracks: &[Track]) -> Result<(), LogError> {
    tracks.iter().try_for_each(|track| Place::parse(&track.cursor).map(drop))
}

/// Appends a checkpoint of a member about its lanes, and makes it the newest. Without a time it is no news, but where
/// the lanes stood when the member got them.
pub(super) async fn write(
    conn: &mut SqliteConnection,
    state: &State,
    fence: &Fence,
    places: &Places,
    written_at: Option<i64>,
) -> Result<(), LogError> {
    let mut lagging = places.to_tracks(state);
    let foremost = lagging.pop().map_or_else(|| cursor(0, state), |track| track.cursor);
    let id: i64 = sqlx::query_scalar(WRITE)
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(places.lanes().mask() as i64)
        .bind(foremost.as_text())
        .bind(lagging::to_json(&lagging))
        .bind(places.lowest().unwrap_or_default() as i64)
        .bind(written_at)
        .fetch_one(&mut *conn)
        .await
        .map_err(error::log)?;
    sqlx::query(POINT)
        .bind(fence.consumer.as_str())
        .bind(fence.member.0)
        .bind(fence.epoch as i64)
        .bind(id)
        .bind(places.lanes().mask() as i64)
        .execute(&mut *conn)
        .await
        .map_err(error::log)?;
    sqlx::query(TRIM).bind(fence.consumer.as_str()).bind(id - HISTORY).execute(conn).await.map_err(error::log)?;
    Ok(())
}

pub(in super::super) async fn progress(log: &Inner, consumer: &ConsumerName) -> Result<Progress, LogError> {
    let mut tx = begin_reading(log).await?;
    let state = reader::state(log, &mut tx).await?;
    let roster = Roster::load(&mut tx, &state, consumer, Trust::Checked).await?;
    Ok(Progress { tracks: roster.places().to_tracks(&state), position: roster.lowest(), head: state.head })
}

/// The position that a checkpoint of the history has for a lane.
pub(super) fn position_in(cursor: &str, behind: &[Track], lane: Lane) -> Result<u64, LogError> {
    let lags = behind.iter().find(|track| track.lanes.contains(lane));
    let cursor = lags.map_or_else(|| Cursor::from_text(cursor), |track| track.cursor.clone());
    Ok(Place::parse(&cursor)?.position())
}
