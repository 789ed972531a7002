//! The schema's name, and its tables.

use std::fmt;

use outbox_core::{
    event::LaneCount,
    log::{LogError, LogErrorKind},
};
use sqlx::{
    AssertSqlSafe, PgConnection, PgPool, SqlSafeStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::{error, reader, retention, transaction};

/// The version of the tables that this library works with.
pub(super) const VERSION: i32 = 4;

/// In order; each file is final once it was released.
const MIGRATIONS: [(i64, &str, &str); 4] = [
    (1, "log", include_str!("migrations/0001_log.sql")),
    (2, "members", include_str!("migrations/0002_members.sql")),
    (3, "writing", include_str!("migrations/0003_writing.sql")),
    (4, "retention", include_str!("migrations/0004_retention.sql")),
];

/// The name of the schema that holds a log's tables: 1 to 63 of `a-z`, `0-9` and `_`, not beginning with a digit or
/// with `pg_`.
///
/// ```
/// # use outbox_sqlx::postgres::SchemaName;
/// assert!(SchemaName::parse("orders_outbox").is_ok());
/// assert!(SchemaName::parse("outbox; DROP TABLE orders").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SchemaName(Box<str>);

impl SchemaName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`LogErrorKind::BadName`] when the text is not of the form above.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, LogError> {
        let text = text.as_ref();
        let good = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && !text.starts_with(|c: char| c.is_ascii_digit())
            && !text.starts_with("pg_");
        if good {
            Ok(Self(text.into()))
        } else {
            let message = format!(
                "schema name {text:?} is not 1 to 63 of a-z, 0-9 and '_', or begins with a digit or with \"pg_\""
            );
            Err(LogError::new(LogErrorKind::BadName, message))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Puts the quoted name in the place of `@schema@`, and in the place of `@head@` what tells the highest position
    /// issued when selected from the sequence of positions.
    pub(super) fn qualify(&self, sql: &str) -> String {
        sql.replace("@head@", HEAD).replace("@schema@", &format!("\"{self}\""))
    }
}

/// The column `last_value` may not be read for it. While PostgreSQL logs the sequence ahead, once in 32 positions, that
/// column holds a value up to 32 too high for a moment, and is read without a lock: in 7.4 million reads beside six
/// writers 75 were too high. A reader that took that for the head would go on behind positions that are issued only
/// then, and lose them. The function waits for the lock.
const HEAD: &str = "CASE WHEN is_called THEN pg_sequence_last_value(tableoid::regclass) ELSE 0 END";

impl Default for SchemaName {
    /// `outbox`.
    fn default() -> Self {
        Self("outbox".into())
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for SchemaName {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        Self::parse(text)
    }
}

fn migrator(schema: &SchemaName) -> Migrator {
    let migrations = MIGRATIONS.map(|(version, name, sql)| {
        let sql = AssertSqlSafe(schema.qualify(sql)).into_sql_str();
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    let mut migrator = Migrator::with_migrations(migrations.to_vec());
    migrator.dangerous_set_table_name(schema.qualify("@schema@._outbox_migrations"));
    // Its own lock belongs to the session, which does not work behind a pooler of transactions.
    migrator.set_locking(false);
    migrator
}

/// Makes or updates the tables, in one transaction.
pub(super) async fn migrate(pool: &PgPool, schema: &SchemaName, lanes: LaneCount, ring: bool) -> Result<(), LogError> {
    // At the default isolation of some pools, the second of two processes would not see what the first one made.
    let mut tx = transaction::begin(pool, "BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    let conn: &mut PgConnection = &mut tx;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('outbox_migrations/' || $1, 0))")
        .bind(schema.as_str())
        .execute(&mut *conn)
        .await
        .map_err(error::log)?;
    create_schema(&mut *conn, schema).await?;
    // `run_direct` and not `run`: the transaction is already open, and each migration becomes a savepoint in it.
    migrator(schema).run_direct(None, &mut *conn, false).await.map_err(refused)?;
    let create = "INSERT INTO @schema@.outbox_log (lanes, schema_version) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    let created = sqlx::query(AssertSqlSafe(schema.qualify(create)))
        .bind(i16::from(lanes.get()))
        .bind(VERSION)
        .execute(&mut *conn)
        .await
        .map_err(error::log)?;
    if ring && created.rows_affected() == 1 {
        sqlx::raw_sql(AssertSqlSafe(schema.qualify(retention::RING))).execute(&mut *conn).await.map_err(error::log)?;
    }
    tx.commit().await.map_err(error::log)
}

/// `IF NOT EXISTS` alone would want the right to create schemas even when there is nothing to create.
async fn create_schema(conn: &mut PgConnection, schema: &SchemaName) -> Result<(), LogError> {
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
        .bind(schema.as_str())
        .fetch_one(&mut *conn)
        .await
        .map_err(error::log)?;
    if !exists {
        let create = AssertSqlSafe(schema.qualify("CREATE SCHEMA IF NOT EXISTS @schema@"));
        sqlx::query(create).execute(&mut *conn).await.map_err(error::log)?;
    }
    Ok(())
}

fn refused(failed: MigrateError) -> LogError {
    match failed {
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => error::log(e),
        MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => reader::newer().with_source(failed),
        failed => {
            let message = "the log's tables were migrated by another build of this library; use the one that made them";
            LogError::new(LogErrorKind::Incompatible, message).with_source(failed)
        }
    }
}

/// The migrations as one script, with the notes that tell the migrator not to run them again.
pub(super) fn migration_sql(schema: &SchemaName, lanes: LaneCount, ring: bool) -> String {
    use fmt::Write as _;
    let mut script = schema.qualify(
        "CREATE SCHEMA IF NOT EXISTS @schema@;\n\n\
         CREATE TABLE IF NOT EXISTS @schema@._outbox_migrations (\n    \
             version bigint PRIMARY KEY,\n    \
             description text NOT NULL,\n    \
             installed_on timestamptz NOT NULL DEFAULT now(),\n    \
             success boolean NOT NULL,\n    \
             checksum bytea NOT NULL,\n    \
             execution_time bigint NOT NULL\n);\n",
    );
    for migration in migrator(schema).iter() {
        let checksum: String = migration.checksum.iter().fold(String::new(), |mut hex, byte| {
            let _infallible = write!(hex, "{byte:02x}");
            hex
        });
        let _infallible = write!(
            script,
            "\n{}\nINSERT INTO \"{schema}\"._outbox_migrations (version, description, success, checksum, execution_time)\n    \
             VALUES ({}, '{}', true, '\\x{checksum}', -1);\n",
            migration.sql.as_str(),
            migration.version,
            migration.description,
        );
    }
    let _infallible = writeln!(
        script,
        "\nINSERT INTO \"{schema}\".outbox_log (lanes, schema_version) VALUES ({}, {VERSION});",
        lanes.get()
    );
    if ring {
        let _infallible = write!(script, "\n{}", schema.qualify(retention::RING));
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_sql_is_refused() {
        for bad in [
            "",
            "Outbox",
            "out box",
            "outbox\"",
            "outbox\"; DROP TABLE orders; --",
            "outbox.public",
            "1outbox",
            "pg_catalog",
            "таблица",
            "a\0b",
            &"x".repeat(64),
        ] {
            assert_eq!(SchemaName::parse(bad).expect_err(bad).kind(), LogErrorKind::BadName, "{bad:?}");
        }
        for good in ["outbox", "_o1", &"x".repeat(63)] {
            assert_eq!(SchemaName::parse(good).expect(good).as_str(), good);
        }
    }

    #[test]
    fn every_table_is_qualified() {
        let sql: String = MIGRATIONS.iter().map(|(_, _, sql)| SchemaName::default().qualify(sql)).collect();
        let code = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
        for line in code.filter(|line| line.contains("outbox_") && !line.contains("CREATE INDEX")) {
            let qualified = line.matches("\"outbox\".outbox_").count();
            let names = line.matches("outbox_").count() - line.matches("CONSTRAINT outbox_").count();
            assert_eq!(qualified, names, "{line}");
        }
    }

    /// Beside writers, whose every 32nd position is logged ahead.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_head_never_goes_back() {
        use sqlx::AssertSqlSafe;
        use test_services::{PostgresVersion, TestDatabase};

        let database = TestDatabase::create(PostgresVersion::V15).await;
        let pool = database.pool();
        let log = crate::PostgresLog::builder(pool.clone()).build();
        log.migrate().await.expect("migrate");
        let watch = SchemaName::default().qualify(
            "CREATE TABLE drawn (position bigint);
            CREATE FUNCTION watch() RETURNS bigint LANGUAGE plpgsql AS $$
            DECLARE
                head bigint; highest bigint := 0; went_back bigint := 0; began timestamptz := clock_timestamp();
            BEGIN
                WHILE clock_timestamp() < began + interval '4 s' LOOP
                    SELECT @head@ INTO head FROM @schema@.outbox_event_position_seq;
                    went_back := went_back + (head < highest)::int;
                    highest := head;
                END LOOP;
                RETURN went_back;
            END $$",
        );
        sqlx::raw_sql(AssertSqlSafe(watch)).execute(pool).await.expect("watch");
        let draw = "INSERT INTO drawn SELECT nextval('outbox.outbox_event_position_seq') FROM generate_series(1, 10)";
        let writer = || async {
            loop {
                sqlx::raw_sql(draw).execute(pool).await.expect("insert");
            }
        };
        let writers = futures_util::future::join_all((0..5).map(|_| writer()));
        let watched = sqlx::query_scalar::<_, i64>("SELECT watch()").fetch_one(pool);
        let went_back = tokio::select! {
            watched = watched => watched.expect("watched"),
            _ = writers => 0,
        };
        assert_eq!(went_back, 0);
        database.drop_database().await;
    }
}
