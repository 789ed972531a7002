//! Writing beside `append`: joining traces, and other drivers than sqlx.

use super::{SqliteLog, SqliteLogBuilder};
use crate::CurrentTrace;

impl SqliteLog {
    /// The statement that appends one event with any driver, inside the caller's open transaction. SQLite has no stored
    /// functions and no SHA-256, so the checks and the lane are the caller's: build a
    /// [`NewEvent`](outbox_core::event::NewEvent), which parses the names, let
    /// [`Profile::check`](outbox_core::profile::Profile::check) accept it, and bind what its
    /// [`Event`](outbox_core::event::Event) holds. Without this library write to a table of your own and let a process
    /// with it append.
    ///
    /// | | Parameter | Type |
    /// |---|---|---|
    /// | `?1` | lane: [`LaneCount::lane_of`](outbox_core::event::LaneCount::lane_of) the event's [`lane_key`](outbox_core::event::Event::lane_key) | `INTEGER` |
    /// | `?2` | how many lanes that count has; the statement inserts nothing if the log has another number | `INTEGER` |
    /// | `?3` | id, 16 bytes | `BLOB` |
    /// | `?4`, `?5` | aggregate type, aggregate id | `TEXT` |
    /// | `?6` | ordering key, or null | `TEXT` |
    /// | `?7`, `?8` | event type, content type | `TEXT` |
    /// | `?9` | payload, or null for a tombstone | `BLOB` |
    /// | `?10` | headers: [`Headers::to_stored`](outbox_core::event::Headers::to_stored) | `BLOB` |
    /// | `?11` | created at, microseconds since 1970 | `INTEGER` |
    /// | `?12` | whether nothing orders the event, 0 or 1 | `INTEGER` |
    ///
    /// One row must have been changed; if none was, the log has another number of lanes (`SELECT lanes FROM outbox_log`)
    /// or was never migrated: roll back. The order of events needs nothing more, since SQLite has one writer at a time.
    ///
    /// With [rusqlite](https://docs.rs/rusqlite):
    ///
    /// ```text
    /// let lanes = LaneCount::default();
    /// let event = NewEvent::json("Tutor", 42, "TutorUpdated", &tutor)?;
    /// Profile::default().check(&event)?;
    /// let event = event.event();
    /// let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    /// tx.execute("UPDATE tutor SET headline = ?1 WHERE id = ?2", params!["Maths", 42])?;
    /// let changed = tx.execute(SqliteLog::append_sql(), params![
    ///     lanes.lane_of(&event.lane_key()).get(), lanes.get(), event.id.as_bytes(),
    ///     event.aggregate_type.as_str(), event.aggregate_id.as_str(), event.ordering_key.as_ref().map(|key| key.as_str()),
    ///     event.event_type.as_str(), event.content_type.as_str(), event.payload.as_deref(), event.headers.to_stored(),
    ///     event.created_at.timestamp_micros(), event.unordered,
    /// ])?;
    /// assert_eq!(changed, 1);
    /// tx.commit()?;
    /// ```
    #[must_use]
    pub fn append_sql() -> &'static str {
        "INSERT INTO outbox_event (lane, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type, \
         payload, headers, created_at, unordered) \
         SELECT ?1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12 FROM outbox_log WHERE lanes = ?2"
    }
}

impl SqliteLogBuilder {
    /// Gives every event the header `traceparent` of the span in which it is appended, so that consumers join its trace.
    /// A header of that name given by the writer wins; an event whose headers are full goes without. Default: none.
    ///
    /// The documentation of the PostgreSQL log's method of this name shows a function for `tracing-opentelemetry`.
    pub fn trace_context(mut self, current: CurrentTrace) -> Self {
        self.trace = Some(current);
        self
    }
}
