//! Making a consumer known.

use outbox_core::log::{ConsumerName, LogError, StartAt};
use sqlx::SqlStr;

use super::{
    super::{Inner, SchemaName, error, reader, transaction},
    BEGIN, sql,
};

#[derive(Debug)]
pub(super) struct Sql {
    known: SqlStr,
    register: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let register = "INSERT INTO @schema@.outbox_consumer (name, start_cursor, epoch)
            SELECT $1, $2, dropped_epoch FROM @schema@.outbox_log ON CONFLICT DO NOTHING";
        Self {
            known: sql(schema, "SELECT EXISTS (SELECT FROM @schema@.outbox_consumer WHERE name = $1)"),
            register: sql(schema, register),
        }
    }
}

pub(in super::super) async fn register(log: &Inner, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
    let mut tx = transaction::begin(&log.pool, BEGIN).await?;
    reader::identity(log, &mut tx).await?;
    // Who is known keeps its place: finding another one may mean a look at the whole log.
    let known: bool = sqlx::query_scalar(log.consumers.registration.known.clone())
        .bind(consumer.as_str())
        .fetch_one(&mut *tx)
        .await
        .map_err(error::log)?;
    if known {
        return tx.commit().await.map_err(error::log);
    }
    let place = reader::start_at(log, &mut tx, start).await?;
    sqlx::query(log.consumers.registration.register.clone())
        .bind(consumer.as_str())
        .bind(place.to_cursor().as_text())
        .execute(&mut *tx)
        .await
        .map_err(error::log)?;
    tx.commit().await.map_err(error::log)
}
