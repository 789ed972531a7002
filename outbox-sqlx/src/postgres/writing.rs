//! Writing beside `append`: locking everything first, joining traces, and other drivers than sqlx.

use outbox_core::outbox::AppendError;
use sqlx::{AssertSqlSafe, Postgres, Transaction};

use super::{PostgresLog, PostgresLogBuilder, SchemaName, error};
use crate::CurrentTrace;

impl PostgresLog {
    /// Makes `tx` the only writer of this log, but for unordered events, until it ends. It waits for all transactions
    /// that have appended, and every later append waits for `tx`.
    ///
    /// For imports and repairs that append in *many* calls of one transaction: each call keeps locks until the end, and
    /// tens of thousands fill the server's lock table (`out of shared memory`); two such transactions may also deadlock.
    /// Call it before the first append and then append through [`PostgresLog::already_locked`]; `outbox_append()` in SQL
    /// knows by itself. A single call needs none of this, however many aggregates it has.
    ///
    /// # Errors
    /// [`NotMigrated`](outbox_core::outbox::AppendErrorKind::NotMigrated), or
    /// [`Database`](outbox_core::outbox::AppendErrorKind::Database), as when a `lock_timeout` passes or `tx` had appended
    /// before and deadlocks. Roll back.
    ///
    /// # Cancellation
    /// Dropping the future leaves the transaction in a state that only a rollback ends well.
    pub async fn lock_lanes(&self, tx: &mut Transaction<'_, Postgres>) -> Result<(), AppendError> {
        let sql = self.inner.schema.qualify("SELECT @schema@.outbox_lock_lanes()");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut **tx).await.map_err(error::append)?;
        Ok(())
    }

    /// The statement that appends one event with any driver, inside the caller's open transaction. It calls the function
    /// `outbox_append` in the log's schema, which locks as [`append`](outbox_core::outbox::Outbox::append) does, so both
    /// can write to one log. One row comes back with the position, a `bigint`.
    ///
    /// | | Parameter | Type | Null |
    /// |---|---|---|---|
    /// | `$1` | aggregate type | `text` | |
    /// | `$2` | aggregate id | `text` | |
    /// | `$3` | event type | `text` | |
    /// | `$4` | payload | `bytea` | a tombstone |
    /// | `$5` | headers: a JSON object of strings | `text` | none |
    /// | `$6` | ordering key | `text` | the aggregate orders |
    /// | `$7` | content type | `text` | `application/json` |
    /// | `$8` | id, a UUID | `text` | a new UUIDv7 |
    /// | `$9` | whether nothing orders the event | `boolean` | no |
    ///
    /// What the library refuses as an invalid event is refused with SQLSTATE `22023` and a hint: empty, over-long or
    /// unprintable names, reserved header names, over 64 KiB of headers, a payload that is not the JSON it is declared to
    /// be, a message over the limit in `outbox_log.message_bytes`. Unlike an invalid event in Rust, an error in SQL aborts
    /// the transaction. A router or an encoder of one's own is not consulted: what they cannot publish fails at the relay.
    ///
    /// The role needs `USAGE` on the schema, `SELECT` on `outbox_log`, `INSERT` and `SELECT (position)` on `outbox_event`.
    ///
    /// With [tokio-postgres](https://docs.rs/tokio-postgres):
    ///
    /// ```text
    /// let sql = PostgresLog::append_sql(&SchemaName::default());
    /// let tx = client.transaction().await?;
    /// tx.execute("UPDATE tutor SET headline = $1 WHERE id = $2", &[&"Maths", &42_i64]).await?;
    /// let payload = serde_json::to_vec(&tutor)?;
    /// let none = None::<&str>;
    /// let row = tx
    ///     .query_one(&sql, &[&"Tutor", &"42", &"TutorUpdated", &payload, &none, &none, &none, &none, &false])
    ///     .await?;
    /// let position: i64 = row.get(0);
    /// tx.commit().await?;
    /// ```
    ///
    /// In psql, in a trigger or from Django the function is easier called by its name, with defaults for all but the
    /// first four; payload may be `text`, `json`, `jsonb` or `bytea`:
    ///
    /// ```sql
    /// SELECT outbox.outbox_append('Tutor', '42', 'TutorUpdated', '{"headline": "Maths"}');
    /// SELECT outbox.outbox_append('Tutor', NEW.id::text, 'TutorUpdated', to_jsonb(NEW), headers => '{"tenant": "a"}');
    /// ```
    ///
    /// Several calls in one transaction take their locks one by one; see [`PostgresLog::lock_lanes`], in SQL
    /// `outbox_lock_lanes()`, for very many.
    #[must_use]
    pub fn append_sql(schema: &SchemaName) -> String {
        schema.qualify(
            "SELECT @schema@.outbox_append($1::text, $2::text, $3::text, $4::bytea, headers => $5::text::jsonb, \
             ordering_key => $6::text, content_type => $7::text, id => $8::text::uuid, unordered => $9::boolean)",
        )
    }
}

impl PostgresLogBuilder {
    /// Gives every event the header `traceparent` of the span in which it is appended, so that consumers join its trace.
    /// A header of that name given by the writer wins; an event whose headers are full goes without. Default: none.
    ///
    /// With [tracing-opentelemetry](https://docs.rs/tracing-opentelemetry):
    ///
    /// ```text
    /// fn current_trace() -> Option<TraceParent> {
    ///     let context = tracing::Span::current().context(); // of OpenTelemetrySpanExt
    ///     let span = context.span().span_context().clone(); // of TraceContextExt
    ///     TraceParent::new(span.trace_id().to_bytes(), span.span_id().to_bytes(), span.is_sampled())
    /// }
    ///
    /// let log = PostgresLog::builder(pool).trace_context(current_trace).open().await?;
    /// ```
    pub fn trace_context(mut self, current: CurrentTrace) -> Self {
        self.trace = Some(current);
        self
    }
}
