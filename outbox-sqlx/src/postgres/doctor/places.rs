//! Whether the consumers' places are of this server.

use outbox_core::log::{EventLog as _, LogAdmin as _, LogError, LogErrorKind};

use super::sql;
use crate::{
    doctor::{Check, Finding},
    postgres::{PostgresLog, cursor::Place, error, reader, transaction},
};

const ADVICE: &str =
    "stop the writers and `outbox reanchor`: the database was restored to an earlier time, or moved here";

pub(super) async fn of_this_server(log: &PostgresLog) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("cursors");
    let inner = &*log.inner;
    let mut tx = transaction::begin(&inner.pool, "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY").await?;
    let state = reader::state(inner, &mut tx).await?;
    // Sorted by the column: a bare name would be that of the text.
    let newest: Option<String> =
        sqlx::query_scalar(sql(inner, "SELECT xid::text FROM @schema@.outbox_event AS e ORDER BY e.xid DESC LIMIT 1"))
            .fetch_optional(&mut *tx)
            .await
            .map_err(error::log)?;
    tx.commit().await.map_err(error::log)?;
    let (now, log_id) = (&state.horizon, state.identity.id);

    let newest: u64 = newest.and_then(|xid| xid.parse().ok()).unwrap_or(0);
    if newest >= now.next_xid {
        check.problem(
            format!("the log has events of transaction {newest}, but the server is only at {}", now.next_xid),
            ADVICE,
        );
    }
    let consumers = log.consumers().await?;
    for consumer in &consumers {
        let checked = match log.progress(&consumer.name).await {
            Ok(progress) => {
                progress.tracks.iter().try_for_each(|track| Place::parse(&track.cursor)?.check(log_id, now))
            }
            Err(error) => Err(error),
        };
        match checked {
            Err(error) if error.kind() == LogErrorKind::BadCursor => {
                check.problem(format!("consumer {}: {error}", consumer.name), ADVICE);
            }
            checked => checked?,
        }
    }
    Ok(check.or_ok(format!("those of {} consumers are of this server", consumers.len())))
}
