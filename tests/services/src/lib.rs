//! Finds the real services that the tests run against, and hands out what a test may break: databases, a PostgreSQL
//! server, a broker, a pooler and a TCP connection of its own.
//!
//! A service is looked for in this order:
//!
//! 1. its environment variable: `OUTBOX_TEST_POSTGRES_15_URL`, `OUTBOX_TEST_POSTGRES_18_URL`,
//!    `OUTBOX_TEST_KAFKA_BOOTSTRAP`, `OUTBOX_TEST_OPENSEARCH_URL`;
//! 2. `target/services/env`, which `scripts/services up` writes;
//! 3. with the feature `containers`: a container, if a Docker engine answers. Containers are kept for the next run and
//!    are not removed. **This way is compiled but has not been run**: the project is developed without an engine.
//!
//! The programs of which a test starts its own server, PostgreSQL, Kafka, OpenSearch and PgBouncer, are looked for in the
//! first two: `OUTBOX_TEST_POSTGRES_15_BIN`, `OUTBOX_TEST_POSTGRES_18_BIN`, `OUTBOX_TEST_KAFKA_LIBS`,
//! `OUTBOX_TEST_OPENSEARCH_LIBS`, `OUTBOX_TEST_PGBOUNCER`.
//! So is a Python for consumers that know nothing of this project: `OUTBOX_TEST_PYTHON`.
//!
//! If none of them leads to a service, the function panics and names the command that would help: this is support for
//! tests, where a missing service is a failure and never a reason to skip.
//!
//! Nothing here depends on one runtime or on the number of tests that run at once.

#[cfg(feature = "containers")]
mod containers;
mod database;
mod frozen;
mod locate;
mod nursery;
mod own_kafka;
mod own_opensearch;
mod own_pgbouncer;
mod own_postgres;
mod proxy;

pub use database::TestDatabase;
pub use frozen::{freeze, thaw};
pub use own_kafka::OwnKafka;
pub use own_opensearch::OwnOpenSearch;
pub use own_pgbouncer::OwnPgBouncer;
pub use own_postgres::OwnPostgres;
pub use proxy::TcpProxy;

use locate::Service;
use uuid::Uuid;

/// The PostgreSQL versions that the project is tested on: the oldest and the newest that it supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PostgresVersion {
    /// The distribution's server: 15 on Debian 12, a later one where 15 is no longer packaged.
    V15,
    /// PostgreSQL 18.
    V18,
}

impl PostgresVersion {
    /// Both, oldest first.
    pub const ALL: [Self; 2] = [Self::V15, Self::V18];
}

/// The address of a PostgreSQL server, as superuser, with the database `postgres`.
///
/// Tests share the server: use a [`TestDatabase`] for anything that leaves a trace. The databases of one server also
/// share its transaction ids, so other tests' open transactions show up in this one's snapshots.
///
/// # Panics
///
/// If there is no such server.
pub async fn postgres_url(version: PostgresVersion) -> String {
    locate::address(Service::Postgres(version)).await
}

/// The bootstrap address, `host:port`, of a Kafka broker. Tests share it: name topics and groups with [`unique`].
///
/// # Panics
///
/// If there is no broker.
pub async fn kafka_bootstrap() -> String {
    locate::address(Service::Kafka).await
}

/// The URL of an OpenSearch node. Tests share it: name indexes with [`unique`].
///
/// # Panics
///
/// If there is no node.
pub async fn opensearch_url() -> String {
    locate::address(Service::OpenSearch).await
}

/// A Python with a Kafka client and the CloudEvents SDK, for consumers that know nothing of this project.
///
/// # Panics
///
/// If there is none: unlike the servers, it is never looked for anywhere but where `scripts/services` put it.
#[must_use]
pub fn python() -> std::path::PathBuf {
    locate::python()
}

/// `prefix` and twelve random hexadecimal digits: a name for a topic, a consumer group or an index that no other test
/// uses.
///
/// # Panics
///
/// If one of the three would refuse the name: only lower-case letters, digits, `.`, `_` and `-`, the first a letter.
#[must_use]
pub fn unique(prefix: &str) -> String {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    assert!(
        prefix.starts_with(|c: char| c.is_ascii_lowercase()) && prefix.chars().all(legal) && prefix.len() <= 200,
        "`{prefix}` cannot begin the name of a topic, a group and an index: lower-case letters, digits and `._-`"
    );
    format!("{prefix}-{}", random_hex())
}

/// Twelve random hexadecimal digits.
fn random_hex() -> String {
    Uuid::new_v4().simple().to_string()[..12].to_owned()
}
