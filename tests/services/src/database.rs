//! A fresh database for one test.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, postgres::PgPoolOptions};

use crate::{PostgresVersion, postgres_url, random_hex};

/// Followed by the Unix time at which the database was made and random digits.
const PREFIX: &str = "outbox_test_";

/// A database older than this belongs to no running test.
const STALE: Duration = Duration::from_hours(1);

/// An empty database of one test, on a server shared with other tests.
///
/// Call [`drop_database`](Self::drop_database) at the end. A test that fails leaves its database behind, to be looked
/// at; the first `create` of a later test program drops those that are older than an hour.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    server: String,
    url: String,
    pool: PgPool,
}

impl TestDatabase {
    /// Creates a database with a name of its own and connects to it.
    ///
    /// # Panics
    ///
    /// If there is no such server, or it refuses.
    pub async fn create(version: PostgresVersion) -> Self {
        let server = postgres_url(version).await;
        let mut connection = connect(&server).await;
        sweep(version, &server, &mut connection).await;

        let name = format!("{PREFIX}{}_{}", unix_time(), random_hex());
        // template0: nobody can be connected to it, which would make the statement fail.
        connection
            .execute(AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0")))
            .await
            .unwrap_or_else(|error| panic!("cannot create a database on {server}: {error}"));
        connection.close().await.ok();

        let url = with_database(&server, &name);
        let pool = pool(&url, 10).await;
        Self { name, server, url, pool }
    }

    /// Its address, as superuser.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A pool of up to ten connections to it.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A pool of its own to the same database, for what must not share connections with the rest of the test.
    ///
    /// # Panics
    ///
    /// If the server refuses.
    pub async fn connect(&self, max_connections: u32) -> PgPool {
        pool(&self.url, max_connections).await
    }

    /// Drops the database, whoever is still connected to it. A failure is only reported: the test has passed by then,
    /// and a later one sweeps up.
    pub async fn drop_database(self) {
        self.pool.close().await;
        let mut connection = connect(&self.server).await;
        if let Err(error) = drop_by_name(&self.server, &mut connection, &self.name).await {
            eprintln!("cannot drop {}: {error}", self.name);
        }
        connection.close().await.ok();
    }
}

async fn pool(url: &str, max_connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(30))
        .connect(url)
        .await
        .unwrap_or_else(|error| panic!("cannot connect to {url}: {error}"))
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap_or_else(|error| panic!("cannot connect to {url}: {error}"))
}

/// Drops the databases that earlier tests left behind, once per process and server.
async fn sweep(version: PostgresVersion, server: &str, connection: &mut PgConnection) {
    static DONE: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];
    if DONE[version as usize].swap(true, Ordering::Relaxed) {
        return;
    }
    let names: Vec<String> = sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE starts_with(datname, $1)")
        .bind(PREFIX)
        .fetch_all(&mut *connection)
        .await
        .unwrap_or_else(|error| panic!("cannot list the databases of {server}: {error}"));
    let limit = unix_time() - STALE.as_secs();
    for name in names.iter().filter(|name| created_at(name).is_some_and(|time| time < limit)) {
        // Another test program may be sweeping at the same time.
        drop_by_name(server, connection, name).await.ok();
    }
}

async fn drop_by_name(server: &str, connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    // A prepared transaction outlives its session and even FORCE does not end it; as long as it is there, every snapshot
    // taken on this server has it as running.
    let prepared: Vec<String> = sqlx::query_scalar("SELECT gid FROM pg_prepared_xacts WHERE database = $1")
        .bind(name)
        .fetch_all(&mut *connection)
        .await?;
    if !prepared.is_empty() {
        let mut inside = PgConnection::connect(&with_database(server, name)).await?;
        for gid in prepared {
            let gid = gid.replace('\'', "''");
            inside.execute(AssertSqlSafe(format!("ROLLBACK PREPARED '{gid}'"))).await?;
        }
        inside.close().await?;
    }
    connection.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))).await?;
    Ok(())
}

/// When a database was made, told from its name; none if the name is not one of ours.
fn created_at(name: &str) -> Option<u64> {
    let (time, random) = name.strip_prefix(PREFIX)?.split_once('_')?;
    let ours = random.len() == 12 && random.chars().all(|c| c.is_ascii_hexdigit());
    time.parse().ok().filter(|_| ours)
}

/// The same address with another database in place of the one it names, if any.
fn with_database(url: &str, name: &str) -> String {
    let (address, query) = url.split_once('?').map_or((url, None), |(address, query)| (address, Some(query)));
    let start = address.find("://").map_or(0, |at| at + 3);
    let end = address[start..].find('/').map_or(address.len(), |at| start + at);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}/{name}{query}", &address[..end])
}

fn unix_time() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("the clock is set").as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_databases_have_a_time() {
        assert_eq!(created_at("outbox_test_1700000000_0123456789ab"), Some(1_700_000_000));
        assert_eq!(created_at("outbox_test_1700000000_mine"), None);
        assert_eq!(created_at("outbox_test_results"), None);
        assert_eq!(created_at("postgres"), None);
    }

    #[test]
    fn the_database_of_an_address_is_replaced() {
        assert_eq!(with_database("postgres://u@h:1/a", "b"), "postgres://u@h:1/b");
        assert_eq!(with_database("postgres://u@h:1", "b"), "postgres://u@h:1/b");
        assert_eq!(with_database("postgres://u@h:1/a?sslmode=disable", "b"), "postgres://u@h:1/b?sslmode=disable");
    }
}
