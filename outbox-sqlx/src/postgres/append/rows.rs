//! Events as the columns of one insert.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use outbox_core::{
    event::{Event, Lane, OrderingKey},
    outbox::AppendError,
};
use sqlx::{PgConnection, SqlStr};
use uuid::Uuid;

use crate::postgres::error;

/// The events as columns.
pub(super) struct Rows<'e> {
    /// What headers and payloads take.
    pub(super) bytes: usize,
    lanes: Vec<i16>,
    ids: Vec<Uuid>,
    aggregate_types: Vec<&'e str>,
    aggregate_ids: Vec<&'e str>,
    ordering_keys: Vec<Option<&'e str>>,
    event_types: Vec<&'e str>,
    content_types: Vec<&'e str>,
    payloads: Vec<Option<&'e [u8]>>,
    headers: Vec<Vec<u8>>,
    created_at: Vec<DateTime<Utc>>,
    unordered: Vec<bool>,
}

impl<'e> Rows<'e> {
    pub(super) fn with_capacity(n: usize) -> Self {
        Self {
            bytes: 0,
            lanes: Vec::with_capacity(n),
            ids: Vec::with_capacity(n),
            aggregate_types: Vec::with_capacity(n),
            aggregate_ids: Vec::with_capacity(n),
            ordering_keys: Vec::with_capacity(n),
            event_types: Vec::with_capacity(n),
            content_types: Vec::with_capacity(n),
            payloads: Vec::with_capacity(n),
            headers: Vec::with_capacity(n),
            created_at: Vec::with_capacity(n),
            unordered: Vec::with_capacity(n),
        }
    }

    pub(super) fn push(&mut self, event: &'e Event, lane: Lane) {
        let headers = event.headers.to_stored();
        self.bytes += headers.len() + event.payload.as_ref().map_or(0, Bytes::len);
        self.lanes.push(i16::from(lane.get()));
        self.ids.push(event.id);
        self.aggregate_types.push(event.aggregate_type.as_str());
        self.aggregate_ids.push(event.aggregate_id.as_str());
        self.ordering_keys.push(event.ordering_key.as_ref().map(OrderingKey::as_str));
        self.event_types.push(event.event_type.as_str());
        self.content_types.push(event.content_type.as_str());
        self.payloads.push(event.payload.as_deref());
        self.headers.push(headers);
        self.created_at.push(event.created_at);
        self.unordered.push(event.unordered);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Inserts them, after the locks were taken.
    pub(super) async fn insert(
        self,
        conn: &mut PgConnection,
        sql: &SqlStr,
        lane_locks: Vec<i64>,
        key_locks: Vec<i64>,
    ) -> Result<(), AppendError> {
        sqlx::query(sql.clone())
            .bind(lane_locks)
            .bind(key_locks)
            .bind(self.lanes)
            .bind(self.ids)
            .bind(self.aggregate_types)
            .bind(self.aggregate_ids)
            .bind(self.ordering_keys)
            .bind(self.event_types)
            .bind(self.content_types)
            .bind(self.payloads)
            .bind(self.headers)
            .bind(self.created_at)
            .bind(self.unordered)
            .execute(conn)
            .await
            .map_err(error::append)?;
        Ok(())
    }
}
