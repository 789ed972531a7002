//! The same columns written by hand.

use chrono::{DateTime, Utc};
use outbox_core::event::{LaneCount, NewEvent};
use sqlx::{Postgres, QueryBuilder, Transaction};
use uuid::Uuid;

/// One array for each column.
pub(crate) async fn insert_all(
    tx: &mut Transaction<'_, Postgres>,
    events: &[NewEvent],
) -> std::result::Result<(), sqlx::Error> {
    let lanes = LaneCount::default();
    let rows = || events.iter().map(NewEvent::event);
    sqlx::query(
        "INSERT INTO raw_event (lane, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type, payload,
            headers, created_at, unordered)
        SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::bytea[], $9::bytea[], $10::timestamptz[], $11::boolean[])",
    )
    .bind(rows().map(|e| i16::from(lanes.lane_of(&e.lane_key()).get())).collect::<Vec<i16>>())
    .bind(rows().map(|e| e.id).collect::<Vec<Uuid>>())
    .bind(rows().map(|e| e.aggregate_type.as_str()).collect::<Vec<&str>>())
    .bind(rows().map(|e| e.aggregate_id.as_str()).collect::<Vec<&str>>())
    .bind(rows().map(|e| e.ordering_key.as_ref().map(AsRef::as_ref)).collect::<Vec<Option<&str>>>())
    .bind(rows().map(|e| e.event_type.as_str()).collect::<Vec<&str>>())
    .bind(rows().map(|e| e.content_type.as_str()).collect::<Vec<&str>>())
    .bind(rows().map(|e| e.payload.as_deref()).collect::<Vec<Option<&[u8]>>>())
    .bind(rows().map(|e| e.headers.to_stored()).collect::<Vec<Vec<u8>>>())
    .bind(rows().map(|e| e.created_at).collect::<Vec<DateTime<Utc>>>())
    .bind(rows().map(|e| e.unordered).collect::<Vec<bool>>())
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// As most people write it.
pub(crate) async fn insert_values(
    tx: &mut Transaction<'_, Postgres>,
    events: &[NewEvent],
) -> std::result::Result<(), sqlx::Error> {
    let lanes = LaneCount::default();
    let mut insert = QueryBuilder::new(
        "INSERT INTO raw_event (lane, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type, payload,
            headers, created_at, unordered) ",
    );
    insert.push_values(events.iter().map(NewEvent::event), |mut row, e| {
        row.push_bind(i16::from(lanes.lane_of(&e.lane_key()).get()))
            .push_bind(e.id)
            .push_bind(e.aggregate_type.as_str())
            .push_bind(e.aggregate_id.as_str())
            .push_bind(e.ordering_key.as_ref().map(AsRef::<str>::as_ref))
            .push_bind(e.event_type.as_str())
            .push_bind(e.content_type.as_str())
            .push_bind(e.payload.as_deref())
            .push_bind(e.headers.to_stored())
            .push_bind(e.created_at)
            .push_bind(e.unordered);
    });
    insert.build().execute(&mut **tx).await.map(drop)
}
