//! How a log is opened.

use std::sync::{Arc, OnceLock};

use outbox_core::{
    event::LaneCount,
    log::{EventLog as _, LogError},
    profile::Profile,
    wake::Wake,
};
use sqlx::SqlitePool;

use super::{Inner, SqliteLog, settings};
use crate::CurrentTrace;

/// Settings of a [`SqliteLog`].
#[derive(Debug, Clone)]
#[must_use = "call `open` or `build`"]
pub struct SqliteLogBuilder {
    pub(super) write: SqlitePool,
    pub(super) read: Option<SqlitePool>,
    pub(super) profile: Profile,
    pub(super) lanes: Option<LaneCount>,
    pub(super) wake: Wake,
    pub(super) trace: Option<CurrentTrace>,
}

impl SqliteLogBuilder {
    /// Reads through this pool, so that readers do not wait for the write connection.
    pub fn read_pool(mut self, pool: SqlitePool) -> Self {
        self.read = Some(pool);
        self
    }

    /// What is refused at append because it could not be published. Relays need the same one.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// How many lanes the log gets when it is created. Asking an existing log for another number is an error; without
    /// this call it is taken as it is.
    pub fn lanes(mut self, lanes: LaneCount) -> Self {
        self.lanes = Some(lanes);
        self
    }

    /// Shares a bell with other handles on the same log. Default: one of its own.
    pub fn wake(mut self, wake: Wake) -> Self {
        self.wake = wake;
        self
    }

    /// The log, without asking the database: for a log that may have to be migrated first.
    #[must_use]
    pub fn build(self) -> SqliteLog {
        let Self { write, read, profile, lanes, wake, trace } = self;
        let read = read.unwrap_or_else(|| write.clone());
        SqliteLog { inner: Arc::new(Inner { write, read, profile, lanes, wake, trace, frozen: OnceLock::new() }) }
    }

    /// The log, after [`SqliteLog::migrate`].
    ///
    /// # Errors
    /// See [`SqliteLog::migrate`].
    pub async fn migrate(self) -> Result<SqliteLog, LogError> {
        let log = self.build();
        log.migrate().await?;
        Ok(log)
    }

    /// The log, after checking that it is there and as expected.
    ///
    /// # Errors
    /// [`LogErrorKind::NotMigrated`] when the tables are missing or old, [`LogErrorKind::Incompatible`] when they are of
    /// a newer version, another number of lanes was asked for or the connections have other settings than
    /// [those of the log](super#settings-of-the-connections), and what [`EventLog`](outbox_core::log::EventLog) says about
    /// databases that cannot be reached.
    ///
    /// [`LogErrorKind::NotMigrated`]: outbox_core::log::LogErrorKind::NotMigrated
    /// [`LogErrorKind::Incompatible`]: outbox_core::log::LogErrorKind::Incompatible
    pub async fn open(self) -> Result<SqliteLog, LogError> {
        let log = self.build();
        settings::check(&log.inner.write).await?;
        log.identity().await?;
        Ok(log)
    }
}
