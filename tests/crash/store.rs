//! The database: aggregates that count their own changes, and the log that tells of them.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use outbox_core::{
    event::{Event, NewEvent},
    log::LogAdmin,
    outbox::Outbox,
    profile::Profile,
};
use outbox_sqlx::{PostgresLog, SqliteLog};
use serde_json::json;
use sqlx::{PgPool, SqlitePool, postgres::PgPoolOptions, sqlite::SqlitePoolOptions};

/// How many aggregates there are, from 1.
pub(crate) const AGGREGATES: i64 = 50;

const TABLE: &str = "CREATE TABLE agg (id bigint PRIMARY KEY, v bigint NOT NULL DEFAULT 0)";
const CHANGE: &str = "UPDATE agg SET v = v + 1 WHERE id = $1 RETURNING v";

/// The statements are the same, the types are not.
macro_rules! change_in {
    ($log:expr, $begin:expr, $aggregate:expr, $times:expr, $padding:expr) => {{
        let mut tx = $begin.await.expect("begin");
        let (mut v, mut events) = (0, Vec::new());
        for _ in 0..$times {
            v = sqlx::query_scalar(CHANGE).bind($aggregate).fetch_one(&mut *tx).await.expect("update");
            events.push(event($aggregate, v, $padding));
        }
        let receipt = $log.append(&mut tx, &events).await.expect("append");
        tx.commit().await.expect("commit");
        receipt.committed();
        v
    }};
}

/// A connected database. Cloning is cheap.
#[derive(Clone)]
pub(crate) enum Store {
    Postgres { pool: PgPool, log: PostgresLog },
    Sqlite { write: SqlitePool, log: SqliteLog },
}

impl Store {
    /// `database`: the URL of a PostgreSQL database, or else the path of a SQLite file.
    pub(crate) async fn connect(database: &str, profile: Profile) -> Self {
        if database.starts_with("postgres") {
            let options = PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(30));
            let pool = options.connect(database).await.expect("PostgreSQL");
            let log = PostgresLog::builder(pool.clone()).profile(profile).build();
            return Self::Postgres { pool, log };
        }
        let options = SqliteLog::connect_options(Path::new(database));
        let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.expect("SQLite");
        let read = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.expect("SQLite");
        let log = SqliteLog::builder(write.clone()).read_pool(read).profile(profile).build();
        Self::Sqlite { write, log }
    }

    pub(crate) async fn create_tables(&self) {
        match self {
            Self::Postgres { pool, log } => {
                log.migrate().await.expect("migrate");
                sqlx::query(TABLE).execute(pool).await.expect("table");
            }
            Self::Sqlite { write, log } => {
                log.migrate().await.expect("migrate");
                sqlx::query(TABLE).execute(write).await.expect("table");
            }
        }
        for id in 1..=AGGREGATES {
            let row = "INSERT INTO agg (id) VALUES ($1)";
            match self {
                Self::Postgres { pool, .. } => drop(sqlx::query(row).bind(id).execute(pool).await.expect("row")),
                Self::Sqlite { write, .. } => drop(sqlx::query(row).bind(id).execute(write).await.expect("row")),
            }
        }
    }

    pub(crate) fn log(&self) -> Arc<dyn LogAdmin> {
        match self {
            Self::Postgres { log, .. } => Arc::new(log.clone()),
            Self::Sqlite { log, .. } => Arc::new(log.clone()),
        }
    }

    /// Changes an aggregate so many times and tells of each, in one transaction. Returns the last version. `padding`:
    /// bytes that each event carries besides.
    pub(crate) async fn change(&self, aggregate: i64, times: usize, padding: usize) -> i64 {
        match self {
            Self::Postgres { pool, log } => change_in!(log, pool.begin(), aggregate, times, padding),
            Self::Sqlite { write, log } => {
                change_in!(log, write.begin_with("BEGIN IMMEDIATE"), aggregate, times, padding)
            }
        }
    }

    /// How often each aggregate was changed.
    pub(crate) async fn changes(&self) -> HashMap<i64, i64> {
        let rows: Vec<(i64, i64)> = match self {
            Self::Postgres { pool, .. } => sqlx::query_as("SELECT id, v FROM agg").fetch_all(pool).await,
            Self::Sqlite { write, .. } => sqlx::query_as("SELECT id, v FROM agg").fetch_all(write).await,
        }
        .expect("aggregates");
        rows.into_iter().collect()
    }
}

/// Everything goes to one topic.
pub(crate) fn profile_to(topic: &str) -> Profile {
    let topic = topic.to_owned();
    Profile::default().with_router(move |_: &Event| topic.clone())
}

fn event(aggregate: i64, v: i64, padding: usize) -> NewEvent {
    NewEvent::json("Agg", aggregate, "AggChanged", &json!({"v": v, "padding": "x".repeat(padding)})).expect("event")
}
