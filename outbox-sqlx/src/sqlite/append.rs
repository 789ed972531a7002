//! Writing events into the caller's transaction.

use outbox_core::{
    event::{NewEvent, OrderingKey},
    log::{LogErrorKind, LogIdentity},
    outbox::{AppendError, AppendErrorKind, Receipt},
};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{Inner, error, reader};
use crate::trace_context;

/// Eleven parameters a row; SQLite takes 32,766 a statement. Each number of rows is a statement to prepare and to keep.
const ROWS_A_STATEMENT: usize = 50;

pub(super) async fn append(
    log: &Inner,
    conn: &mut SqliteConnection,
    events: &[NewEvent],
) -> Result<Receipt, AppendError> {
    let events = trace_context::joined(events, log.trace);
    for event in &*events {
        log.profile.check(event)?;
    }
    if events.is_empty() {
        return Ok(Receipt::new(0, log.wake.clone()));
    }
    let identity = frozen(log, conn).await?;
    for rows in events.chunks(ROWS_A_STATEMENT) {
        insert(conn, &identity, rows).await?;
    }
    Ok(Receipt::new(events.len(), log.wake.clone()))
}

/// The identity, asked once through the caller's own connection: another one might wait for its transaction.
async fn frozen(log: &Inner, conn: &mut SqliteConnection) -> Result<LogIdentity, AppendError> {
    if let Some(identity) = log.frozen.get() {
        return Ok(*identity);
    }
    reader::identity(log, conn).await.map_err(|error| {
        let kind = match error.kind() {
            LogErrorKind::NotMigrated => AppendErrorKind::NotMigrated,
            LogErrorKind::Incompatible => AppendErrorKind::Incompatible,
            _ => AppendErrorKind::Database,
        };
        AppendError::new(kind, "the log cannot be written to as it is; roll the transaction back").with_source(error)
    })
}

async fn insert(conn: &mut SqliteConnection, log: &LogIdentity, events: &[NewEvent]) -> Result<(), AppendError> {
    let mut sql = QueryBuilder::<Sqlite>::new(
        "INSERT INTO outbox_event (lane, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type, \
         payload, headers, created_at, unordered) ",
    );
    sql.push_values(events, |mut row, event| {
        let event = event.event();
        row.push_bind(i64::from(log.lanes.lane_of(&event.lane_key()).get()))
            .push_bind(event.id)
            .push_bind(event.aggregate_type.as_str())
            .push_bind(event.aggregate_id.as_str())
            .push_bind(event.ordering_key.as_ref().map(OrderingKey::as_str))
            .push_bind(event.event_type.as_str())
            .push_bind(event.content_type.as_str())
            .push_bind(event.payload.as_deref())
            .push_bind(event.headers.to_stored())
            .push_bind(event.created_at.timestamp_micros())
            .push_bind(event.unordered);
    });
    sql.build().execute(conn).await.map_err(error::append)?;
    Ok(())
}
