//! Two databases behind one code base: an enum for each kind of handle, and one macro that writes a query for both.
//!
//! `$1` placeholders, `RETURNING`, `ON CONFLICT` and JSON columns work on both, so most statements are the same text.

mod away;
#[cfg(feature = "production")]
mod postgres;
#[cfg(feature = "embedded")]
mod sqlite;

use std::sync::Arc;

use anyhow::Context as _;
use outbox_core::{
    event::NewEvent,
    log::LogAdmin,
    outbox::{AppendError, Outbox, Receipt},
};
use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

pub(crate) use away::is_away;
#[cfg(feature = "production")]
pub(crate) use postgres::PostgresDb;
#[cfg(feature = "embedded")]
pub(crate) use sqlite::SqliteDb;

/// The application's database, with the log of events inside it.
pub(crate) enum Db {
    #[cfg(feature = "embedded")]
    Sqlite(SqliteDb),
    #[cfg(feature = "production")]
    Postgres(PostgresDb),
}

/// A transaction that writes. Dropped without a commit it rolls back.
pub(crate) enum Tx {
    #[cfg(feature = "embedded")]
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
    #[cfg(feature = "production")]
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
}

/// A connection for reading.
pub(crate) enum Conn {
    #[cfg(feature = "embedded")]
    Sqlite(sqlx::pool::PoolConnection<sqlx::Sqlite>),
    #[cfg(feature = "production")]
    Postgres(sqlx::pool::PoolConnection<sqlx::Postgres>),
}

/// Runs the same code on whichever database `$it`, a [`Tx`] or a [`Conn`], is of; `$c` is its connection.
macro_rules! on {
    ($kind:ident, $it:expr, |$c:ident| $body:expr) => {
        match $it {
            #[cfg(feature = "embedded")]
            $kind::Sqlite(it) => {
                let $c = &mut **it;
                $body
            }
            #[cfg(feature = "production")]
            $kind::Postgres(it) => {
                let $c = &mut **it;
                $body
            }
        }
    };
}
pub(crate) use on;

impl Db {
    /// Begins a transaction that may write from its first statement on.
    pub(crate) async fn begin(self: &Arc<Self>) -> Result<Tx, sqlx::Error> {
        let db = self.clone();
        let begin = async move {
            match &*db {
                #[cfg(feature = "embedded")]
                Self::Sqlite(db) => db.begin().await.map(Tx::Sqlite),
                #[cfg(feature = "production")]
                Self::Postgres(db) => db.pool.begin().await.map(Tx::Postgres),
            }
        };
        // A client that goes away drops its handler, and sqlx 0.9.0 forgets a BEGIN that was dropped under way: the
        // next user of the connection would work in that transaction. A task of its own ends it (sqlx #4393).
        tokio::spawn(begin).await.unwrap_or(Err(sqlx::Error::PoolClosed))
    }

    pub(crate) async fn read(&self) -> Result<Conn, sqlx::Error> {
        match self {
            #[cfg(feature = "embedded")]
            Self::Sqlite(db) => db.readers.acquire().await.map(Conn::Sqlite),
            #[cfg(feature = "production")]
            Self::Postgres(db) => db.pool.acquire().await.map(Conn::Postgres),
        }
    }

    /// Adds events to a transaction of this database.
    pub(crate) async fn append(&self, tx: &mut Tx, events: &[NewEvent]) -> Result<Receipt, AppendError> {
        match (self, tx) {
            #[cfg(feature = "embedded")]
            (Self::Sqlite(db), Tx::Sqlite(tx)) => db.log.append(tx, events).await,
            #[cfg(feature = "production")]
            (Self::Postgres(db), Tx::Postgres(tx)) => db.log.append(tx, events).await,
            #[cfg(all(feature = "embedded", feature = "production"))]
            _ => Err(AppendError::new(
                outbox_core::outbox::AppendErrorKind::Incompatible,
                "the transaction is of the other database",
            )),
        }
    }

    /// The log, for reading and looking after.
    pub(crate) fn log(&self) -> Arc<dyn LogAdmin> {
        match self {
            #[cfg(feature = "embedded")]
            Self::Sqlite(db) => Arc::new(db.log.clone()),
            #[cfg(feature = "production")]
            Self::Postgres(db) => Arc::new(db.log.clone()),
        }
    }

    pub(crate) async fn ping(&self) -> Result<(), sqlx::Error> {
        let mut conn = self.read().await?;
        on!(Conn, &mut conn, |c| sqlx::query("SELECT 1").execute(c).await.map(|_| ()))
    }

    /// The beginning of a condition that a JSON list column holds a text; bind the text, then close the parenthesis.
    pub(crate) fn json_list_holds(&self, column: &'static str) -> String {
        let elements = match self {
            #[cfg(feature = "embedded")]
            Self::Sqlite(_) => format!("json_each({column}) AS e"),
            #[cfg(feature = "production")]
            Self::Postgres(_) => format!("jsonb_array_elements_text({column}) AS e(value)"),
        };
        format!("EXISTS (SELECT 1 FROM {elements} WHERE e.value = ")
    }

    pub(crate) async fn close(&self) {
        match self {
            #[cfg(feature = "embedded")]
            Self::Sqlite(db) => db.close().await,
            #[cfg(feature = "production")]
            Self::Postgres(db) => db.pool.close().await,
        }
    }
}

impl Tx {
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            #[cfg(feature = "embedded")]
            Self::Sqlite(tx) => tx.commit().await,
            #[cfg(feature = "production")]
            Self::Postgres(tx) => tx.commit().await,
        }
    }
}

/// The application's own migrations, in a table apart from those of the library.
fn migrator(tutors: &'static str, search_dead_letters: &'static str) -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(vec![
        migration(1, "tutors", tutors),
        migration(LAST_MIGRATION, "search_dead_letters", search_dead_letters),
    ]);
    migrator.dangerous_set_table_name("_marketplace_migrations");
    migrator
}

const LAST_MIGRATION: i64 = 2;

impl Db {
    /// Itself.
    ///
    /// # Errors
    /// When the tables are not those of this version.
    pub(crate) async fn fits(self) -> anyhow::Result<Self> {
        const LAST: &str = "SELECT max(version) FROM _marketplace_migrations WHERE success";
        let last = async {
            let mut conn = self.read().await?;
            on!(Conn, &mut conn, |c| sqlx::query_scalar::<_, Option<i64>>(LAST).fetch_one(c).await)
        };
        let other = "the database holds no marketplace of this version: start the marketplace once, and it does";
        match last.await {
            Ok(Some(LAST_MIGRATION)) => Ok(self),
            Ok(_) => anyhow::bail!(other),
            Err(error) if is_away(&error) => Err(error).context("the database cannot be read"),
            Err(error) => Err(error).context(other),
        }
    }
}
