//! From a URL to a log.

use std::{str::FromStr as _, time::Duration};

use outbox_core::{
    error::chain,
    event::Sequence,
    log::{ConsumerInfo, ConsumerName, LogAdmin, LogError, LogIdentity},
};
use outbox_sqlx::{PostgresLog, SqliteLog, postgres::SchemaName};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool, SqliteConnection, SqlitePool,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tokio::time::timeout;

use crate::{failure::Failure, secrets::without_secrets};

/// How long the first connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `doctor` looks at a pooler from two connections, beside whatever else runs.
const CONNECTIONS: u32 = 4;

/// Where a log is.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    Postgres { options: Box<PgConnectOptions>, schema: SchemaName },
    Sqlite { options: Box<SqliteConnectOptions> },
}

/// A log that is open.
#[derive(Debug)]
pub(crate) enum Log {
    Postgres { log: PostgresLog, pool: PgPool },
    Sqlite { log: SqliteLog, pool: SqlitePool },
}

impl Database {
    /// # Errors
    /// [`Failure::Usage`] when there is no URL, or none of a database that can hold a log.
    pub(crate) fn parse(url: Option<&str>, schema: &SchemaName) -> Result<Self, Failure> {
        let Some(url) = url.filter(|url| !url.is_empty()) else {
            return Err(Failure::usage(
                "which database? Say --database-url URL or set DATABASE_URL: postgres://user@host/name or sqlite:path",
            ));
        };
        let unreadable =
            |error: sqlx::Error| Failure::usage(format!("cannot read the database URL: {}", chain(&error)));
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => {
                let options = PgConnectOptions::from_str(url).map_err(unreadable)?;
                let options = Box::new(options.application_name("outbox command"));
                Ok(Self::Postgres { options, schema: schema.clone() })
            }
            Some("sqlite") => {
                let options = SqliteConnectOptions::from_str(url).map_err(unreadable)?;
                let options = options.busy_timeout(Duration::from_secs(5)).foreign_keys(true);
                Ok(Self::Sqlite { options: Box::new(options) })
            }
            // Not the URL itself: what is not understood may well be a password.
            _ => Err(Failure::usage("the database URL begins neither with postgres:// nor with sqlite:")),
        }
    }

    /// The log, which must be there.
    ///
    /// # Errors
    /// [`Failure::Failed`] when the database cannot be reached or has no log.
    pub(crate) async fn open(&self) -> Result<Log, Failure> {
        let log = self.connect().await?;
        log.admin().identity().await.map_err(|error| self.not_open(error))?;
        Ok(log)
    }

    /// The log as it is, with a file to make it in.
    ///
    /// # Errors
    /// [`Failure::Failed`] when the database cannot be reached.
    pub(crate) async fn create(&self) -> Result<Log, Failure> {
        let with_file = match self {
            Self::Postgres { .. } => self.clone(),
            Self::Sqlite { options } => {
                let path = options.get_filename().to_owned();
                Self::Sqlite { options: Box::new(SqliteLog::connect_options(path)) }
            }
        };
        with_file.connect().await
    }

    /// The log as it is, which need not be one.
    ///
    /// # Errors
    /// [`Failure::Failed`] when the database cannot be reached.
    pub(crate) async fn connect(&self) -> Result<Log, Failure> {
        self.probe().await?;
        Ok(match self {
            Self::Postgres { options, schema } => {
                let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
                let pool = pool.connect_lazy_with((**options).clone());
                Log::Postgres { log: PostgresLog::builder(pool.clone()).schema(schema.clone()).build(), pool }
            }
            Self::Sqlite { options } => {
                let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(PATIENCE);
                let pool = pool.connect_lazy_with((**options).clone());
                Log::Sqlite { log: SqliteLog::builder(pool.clone()).build(), pool }
            }
        })
    }

    /// One connection, because a pool tries again for as long as it may and then forgets why.
    async fn probe(&self) -> Result<(), Failure> {
        let connecting = async {
            match self {
                Self::Postgres { options, .. } => PgConnection::connect_with(options).await?.close().await,
                Self::Sqlite { options } => SqliteConnection::connect_with(options).await?.close().await,
            }
        };
        let failed = match timeout(PATIENCE, connecting).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        Err(Failure::failed(match self {
            Self::Postgres { options, .. } => {
                let (host, port) = (options.get_host(), options.get_port());
                format!("cannot connect to {host}:{port}: {}", without_secrets(&failed))
            }
            Self::Sqlite { options } => {
                format!("cannot open {}: {failed}; `outbox migrate` creates it", options.get_filename().display())
            }
        }))
    }

    fn not_open(&self, error: LogError) -> Failure {
        match (Failure::from(error), self) {
            (Failure::Failed(message), Self::Postgres { schema, .. }) => {
                Failure::Failed(format!("{message} (schema {schema})"))
            }
            (failure, _) => failure,
        }
    }
}

impl Log {
    pub(crate) fn admin(&self) -> &dyn LogAdmin {
        match self {
            Self::Postgres { log, .. } => log,
            Self::Sqlite { log, .. } => log,
        }
    }

    /// What JSON calls the kind of database.
    pub(crate) fn database(&self) -> &'static str {
        match self {
            Self::Postgres { .. } => "postgresql",
            Self::Sqlite { .. } => "sqlite",
        }
    }

    /// The highest position issued, committed or not; 0 when none was.
    ///
    /// # Errors
    /// [`Failure::Failed`].
    pub(crate) async fn head(&self) -> Result<u64, Failure> {
        let head: i64 = match self {
            Self::Postgres { log, pool } => {
                let sql = format!(
                    "SELECT CASE WHEN is_called THEN pg_sequence_last_value(tableoid::regclass) ELSE 0 END FROM \"{}\".outbox_event_position_seq",
                    log.schema()
                );
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await
            }
            Self::Sqlite { pool, .. } => {
                let sql = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox_event'), 0)";
                sqlx::query_scalar(sql).fetch_one(pool).await
            }
        }
        .map_err(|error| Failure::failed(format!("cannot read the log's newest position: {}", chain(&error))))?;
        Ok(head.cast_unsigned())
    }

    /// The sequence of a position as `tail` takes it; `None` before the first.
    pub(crate) fn after(identity: &LogIdentity, position: u64) -> Option<Sequence> {
        (position > 0).then(|| Sequence::new(identity.generation, position)).flatten()
    }

    /// The consumers a command is about: the one named, or all.
    ///
    /// # Errors
    /// [`Failure::Failed`] when the name is unknown, or the log cannot serve.
    pub(crate) async fn consumers(&self, only: Option<&ConsumerName>) -> Result<Vec<ConsumerInfo>, Failure> {
        let mut consumers = self.admin().consumers().await?;
        if let Some(only) = only {
            consumers.retain(|consumer| consumer.name == *only);
            if consumers.is_empty() {
                let message = format!("consumer {only} was never registered; `outbox consumers` lists them");
                return Err(Failure::Failed(message));
            }
        }
        Ok(consumers)
    }

    /// The consumer a command is about when there can be only one: the one named, or the only one there is.
    ///
    /// # Errors
    /// [`Failure::Usage`] when none is named and there are several; [`Failure::Failed`] when there is none.
    pub(crate) async fn consumer(&self, named: Option<&ConsumerName>) -> Result<ConsumerName, Failure> {
        let mut consumers = self.consumers(named).await?;
        match consumers.len() {
            1 => Ok(consumers.remove(0).name),
            0 => Err(Failure::failed("the log has no consumers")),
            _ => {
                let which: Vec<&str> = consumers.iter().map(|consumer| consumer.name.as_str()).collect();
                Err(Failure::usage(format!("of which consumer? Say --consumer with one of: {}", which.join(", "))))
            }
        }
    }
}
