//! The tables.

use std::fmt::Write as _;

use outbox_core::{
    event::LaneCount,
    log::{LogError, LogErrorKind},
};
use sqlx::{
    SqlSafeStr, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::error;

/// The version of the tables that this library works with.
pub(super) const VERSION: i64 = 4;

/// In order; each file is final once it was released.
const MIGRATIONS: [(i64, &str, &str); 4] = [
    (1, "log", include_str!("migrations/0001_log.sql")),
    (2, "members", include_str!("migrations/0002_members.sql")),
    (3, "writing", include_str!("migrations/0003_writing.sql")),
    (4, "retention", include_str!("migrations/0004_retention.sql")),
];

const CREATE_LOG: &str = "INSERT OR IGNORE INTO outbox_log (one, lanes, schema_version) VALUES (1, ?1, ?2)";

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.to_vec());
    migrator.dangerous_set_table_name("_outbox_migrations");
    migrator
}

/// Makes or updates the tables, in one transaction.
pub(super) async fn migrate(pool: &SqlitePool, lanes: LaneCount) -> Result<(), LogError> {
    // Immediate: the second of two processes waits here instead of failing when it comes to write.
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.map_err(error::log)?;
    let conn: &mut SqliteConnection = &mut tx;
    migrator().run_direct(None, &mut *conn, false).await.map_err(refused)?;
    sqlx::query(CREATE_LOG).bind(i64::from(lanes.get())).bind(VERSION).execute(&mut *conn).await.map_err(error::log)?;
    tx.commit().await.map_err(error::log)
}

fn refused(failed: MigrateError) -> LogError {
    let message = match failed {
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => return error::log(e),
        MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
            "the log's tables were made by a newer library: use that one"
        }
        _ => "the log's tables were migrated by another build of this library; use the one that made them",
    };
    LogError::new(LogErrorKind::Incompatible, message).with_source(failed)
}

/// The migrations as one script, with the notes that tell the migrator not to run them again.
pub(super) fn migration_sql(lanes: LaneCount) -> String {
    let mut script = String::from(
        "CREATE TABLE IF NOT EXISTS _outbox_migrations (\n    \
             version BIGINT PRIMARY KEY,\n    \
             description TEXT NOT NULL,\n    \
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,\n    \
             success BOOLEAN NOT NULL,\n    \
             checksum BLOB NOT NULL,\n    \
             execution_time BIGINT NOT NULL\n);\n",
    );
    for migration in migrator().iter() {
        let checksum: String = migration.checksum.iter().fold(String::new(), |mut hex, byte| {
            let _infallible = write!(hex, "{byte:02x}");
            hex
        });
        let _infallible = write!(
            script,
            "\n{}\nINSERT INTO _outbox_migrations (version, description, success, checksum, execution_time)\n    \
             VALUES ({}, '{}', TRUE, x'{checksum}', -1);\n",
            migration.sql.as_str(),
            migration.version,
            migration.description,
        );
    }
    let _infallible = writeln!(
        script,
        "\nINSERT INTO outbox_log (one, lanes, schema_version) VALUES (1, {}, {VERSION});",
        lanes.get()
    );
    script
}
