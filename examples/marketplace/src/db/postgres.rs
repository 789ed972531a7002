use std::time::Duration;

use anyhow::Context;
use outbox_core::profile::Profile;
use outbox_sqlx::PostgresLog;
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

/// A PostgreSQL database.
pub(crate) struct PostgresDb {
    pub(super) pool: PgPool,
    pub(super) log: PostgresLog,
}

/// How long a request waits for a connection before it is told to come back.
const TURN: Duration = Duration::from_secs(3);
const CONNECTIONS: u32 = 20;
/// How long the first connection may take before the program gives up.
const FIRST: Duration = Duration::from_secs(5);

impl PostgresDb {
    /// Connects, and brings the tables up to date.
    pub(crate) async fn open(url: &str, profile: Profile) -> anyhow::Result<Self> {
        let db = Self::open_as_it_is(url, profile).await?;
        let (tutors, dead_letters) = (
            include_str!("migrations/postgres/0001_tutors.sql"),
            include_str!("migrations/postgres/0002_search_dead_letters.sql"),
        );
        let migrated = super::migrator(tutors, dead_letters).run(&db.pool).await;
        migrated.context("the marketplace's tables cannot be made")?;
        db.log.migrate().await.context("the log's tables cannot be made")?;
        Ok(db)
    }

    /// Connects to the tables that are there.
    pub(crate) async fn open_as_it_is(url: &str, profile: Profile) -> anyhow::Result<Self> {
        // The address may hold a password, so it is in no message.
        let options: PgConnectOptions = url
            .parse()
            .ok()
            .context("MARKETPLACE_DATABASE_URL is no address such as postgres://user:password@host/database")?;
        // A pool would go on trying and then say only that it took too long.
        let first = timeout(FIRST, PgConnection::connect_with(&options)).await;
        let first = first.map_err(anyhow::Error::from).and_then(|c| c.map_err(anyhow::Error::from));
        let place = || format!("the database {}:{} cannot be reached", options.get_host(), options.get_port());
        first.with_context(place)?.close().await.with_context(place)?;
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(TURN);
        let pool = pool.connect_with(options.clone()).await.with_context(place)?;
        let log = PostgresLog::builder(pool.clone()).profile(profile).build();
        Ok(Self { pool, log })
    }
}
