use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Sqlite, SqlitePool, Transaction};
use uuid::Uuid;

use super::{Claimed, Inbox, TryClaimed, store::Store};

/// An inbox in SQLite.
pub type SqliteInbox = Inbox<Sqlite>;

/// The inbox of one database file.
#[derive(Debug, Default)]
pub struct SqliteInboxTable(());

#[async_trait]
impl Store for Sqlite {
    type Table = SqliteInboxTable;

    const WRITES_SIDE_BY_SIDE: bool = false;

    async fn claim(
        _: &SqliteInboxTable,
        tx: &mut Transaction<'_, Self>,
        consumer: &str,
        event_id: Uuid,
    ) -> Result<Claimed, sqlx::Error> {
        let sql = "INSERT INTO projector_inbox (consumer, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let claim = sqlx::query(sql).bind(consumer).bind(event_id.to_string());
        let new = claim.execute(&mut **tx).await?.rows_affected() == 1;
        Ok(if new { Claimed::New } else { Claimed::Seen })
    }

    async fn try_claim(
        table: &SqliteInboxTable,
        tx: &mut Transaction<'_, Self>,
        consumer: &str,
        event_id: Uuid,
    ) -> Result<TryClaimed, sqlx::Error> {
        Ok(match <Self as Store>::claim(table, tx, consumer, event_id).await? {
            Claimed::New => TryClaimed::New,
            Claimed::Seen => TryClaimed::Seen,
        })
    }

    async fn prune(
        _: &SqliteInboxTable,
        pool: &SqlitePool,
        consumer: &str,
        older_than: Duration,
        limit: u32,
    ) -> Result<u64, sqlx::Error> {
        let sql = "DELETE FROM projector_inbox WHERE consumer = $1 AND event_id IN ( \
                     SELECT event_id FROM projector_inbox \
                     WHERE consumer = $1 AND claimed_at < strftime('%Y-%m-%d %H:%M:%f', 'now', $2) \
                     ORDER BY claimed_at LIMIT $3)";
        let back = format!("-{:.3} seconds", older_than.as_secs_f64());
        Ok(sqlx::query(sql).bind(consumer).bind(back).bind(i64::from(limit)).execute(pool).await?.rows_affected())
    }
}
