//! Making a consumer known.

use outbox_core::log::{ConsumerName, LogError, StartAt};
use sqlx::SqlStr;

use super::{
    super::{Inner, SchemaName, error, reader, transaction},
    BEGIN, sql,
};

#[derive(Debug)]
pub(super) struct Sql {
    register: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        let register = "INSERT INTO @schema@.outbox_consumer (name, start_cursor, epoch)
            SELECT $1, $2, dropped_epoch FROM @schema@.outbox_log ON CONFLICT DO NOTHING";
        Self { register: sql(schema, register) }
    }
}

pub(in super::super) async fn register(log: &Inner, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
    let mut tx = transaction::begin(&log.pool, BEGIN).await?;
    let place = reader::start_at(log, &mut tx, start).await?;
    sqlx::query(log.consumers.registration.register.clone())
        .bind(consumer.as_str())
        .bind(place.to_cursor().as_text())
        .execute(&mut *tx)
        .await
        .map_err(error::log)?;
    tx.commit().await.map_err(error::log)
}
