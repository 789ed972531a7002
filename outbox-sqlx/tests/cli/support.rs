//! A log in a database of its own, and the command beside it.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use outbox_core::{
    event::{NewEvent, RecordedEvent},
    log::{Assignment, Claim, ConsumerName, LogAdmin, MemberId, Page, StartAt, Track},
    outbox::Outbox as _,
};
use outbox_sqlx::{PostgresLog, SqliteLog};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};
use tempfile::TempDir;
use test_services::{PostgresVersion, TestDatabase};
use tokio::process::{Child, Command};

/// One test on each database.
macro_rules! on_logs {
    ($($(#[$meta:meta])* async fn $name:ident($bed:ident: &Bed) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, clippy::wildcard_imports)]
            use super::*;

            async fn case($bed: &Bed) $body

            #[tokio::test]
            async fn on_postgres_15() {
                Bed::run_on(Bed::postgres(test_services::PostgresVersion::V15).await, async |bed| case(bed).await).await;
            }

            #[tokio::test]
            async fn on_postgres_18() {
                Bed::run_on(Bed::postgres(test_services::PostgresVersion::V18).await, async |bed| case(bed).await).await;
            }

            #[tokio::test]
            async fn on_sqlite() {
                Bed::run_on(Bed::sqlite().await, async |bed| case(bed).await).await;
            }
        }
    )*};
}
pub(crate) use on_logs;

/// The tests' servers trust everybody, so any password will do, and none may ever be printed.
pub(crate) const PASSWORD: &str = "hunter2-s3cr3t";

pub(crate) const LEASE: Duration = Duration::from_mins(10);

pub(crate) struct Bed {
    pub(crate) url: String,
    pub(crate) store: Store,
}

pub(crate) enum Store {
    Postgres { log: PostgresLog, pool: PgPool, database: TestDatabase },
    Sqlite { log: SqliteLog, pool: SqlitePool, _folder: TempDir },
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Bed {
    pub(crate) async fn postgres(version: PostgresVersion) -> Self {
        let bed = Self::empty_postgres(version).await;
        let Store::Postgres { log, .. } = &bed.store else { unreachable!("made above") };
        log.migrate().await.expect("migrate");
        bed
    }

    /// Without a log.
    pub(crate) async fn empty_postgres(version: PostgresVersion) -> Self {
        let database = TestDatabase::create(version).await;
        let pool = database.connect(8).await;
        let log = PostgresLog::builder(pool.clone()).build();
        Self { url: with_password(database.url()), store: Store::Postgres { log, pool, database } }
    }

    pub(crate) async fn sqlite() -> Self {
        let bed = Self::empty_sqlite();
        let Store::Sqlite { log, .. } = &bed.store else { unreachable!("made above") };
        log.migrate().await.expect("migrate");
        bed
    }

    /// Without a file.
    pub(crate) fn empty_sqlite() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log.db");
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(4);
        let pool = pool.connect_lazy_with(SqliteLog::connect_options(&path));
        let log = SqliteLog::builder(pool.clone()).build();
        Self { url: format!("sqlite:{}", path.display()), store: Store::Sqlite { log, pool, _folder: folder } }
    }

    pub(crate) async fn run_on(bed: Self, case: impl AsyncFnOnce(&Self)) {
        case(&bed).await;
        match bed.store {
            Store::Postgres { pool, database, .. } => {
                pool.close().await;
                database.drop_database().await;
            }
            Store::Sqlite { pool, .. } => pool.close().await,
        }
    }

    pub(crate) fn log(&self) -> &dyn LogAdmin {
        match &self.store {
            Store::Postgres { log, .. } => log,
            Store::Sqlite { log, .. } => log,
        }
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        matches!(self.store, Store::Sqlite { .. })
    }

    /// The pool of a log in PostgreSQL.
    pub(crate) fn pool(&self) -> &PgPool {
        match &self.store {
            Store::Postgres { pool, .. } => pool,
            Store::Sqlite { .. } => panic!("a test of PostgreSQL"),
        }
    }

    /// Runs SQL that both databases understand, with the tables' names as in SQLite.
    pub(crate) async fn execute(&self, sql: &str) {
        let ran = match &self.store {
            Store::Postgres { pool, .. } => {
                let sql = sql.replace("outbox_", "outbox.outbox_");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map(drop)
            }
            Store::Sqlite { pool, .. } => sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.map(drop),
        };
        ran.expect(sql);
    }

    /// One transaction.
    pub(crate) async fn append(&self, events: &[NewEvent]) {
        match &self.store {
            Store::Postgres { log, pool, .. } => {
                let mut tx = pool.begin().await.expect("begin");
                let _receipt = log.append(&mut tx, events).await.expect("append");
                tx.commit().await.expect("commit");
            }
            Store::Sqlite { log, pool, .. } => {
                let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.expect("begin");
                let _receipt = log.append(&mut tx, events).await.expect("append");
                tx.commit().await.expect("commit");
            }
        }
    }

    /// `count` events of one aggregate, in one transaction.
    pub(crate) async fn append_some(&self, aggregate: i64, count: usize) {
        let events: Vec<NewEvent> = (1..=count).map(|v| changed(aggregate, v)).collect();
        self.append(&events).await;
    }

    pub(crate) async fn register(&self, name: &str) -> ConsumerName {
        let consumer = ConsumerName::parse(name).expect("name");
        self.log().register(&consumer, StartAt::Beginning).await.expect("register");
        consumer
    }

    /// The only member of a consumer, with all lanes.
    pub(crate) async fn join(&self, name: &str) -> Assignment {
        let consumer = self.register(name).await;
        self.log().join(&consumer, MemberId::random(), Claim::All, LEASE).await.expect("join")
    }

    /// Reads what there is, and passes it.
    pub(crate) async fn consume(&self, member: &Assignment) -> Vec<RecordedEvent> {
        let (mut events, mut tracks) = (Vec::new(), member.tracks.clone());
        loop {
            let pages = self.log().read(&tracks, 1_000).await.expect("read");
            let caught_up = pages.iter().all(|page| page.caught_up);
            let read = tracks.into_iter().zip(pages);
            tracks = read
                .map(|(track, Page { events: read, next, .. })| {
                    events.extend(read);
                    Track { cursor: next, ..track }
                })
                .collect();
            if caught_up {
                break;
            }
        }
        self.log().checkpoint(&member.fence, &tracks).await.expect("checkpoint");
        events
    }

    /// The command, told of the database by the environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        command(arguments, Some(&self.url))
    }

    pub(crate) async fn outbox(&self, arguments: &[&str]) -> Ended {
        Ended::from(self.command(arguments).output().await.expect("run"))
    }

    /// Runs a command that must end well.
    pub(crate) async fn fine(&self, arguments: &[&str]) -> String {
        let ended = self.outbox(arguments).await;
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        ended.out
    }

    /// What it prints, one JSON value a line.
    pub(crate) async fn values(&self, arguments: &[&str]) -> Vec<Value> {
        self.fine(&[arguments, &["--json"]].concat()).await.lines().map(parsed).collect()
    }

    pub(crate) async fn value(&self, arguments: &[&str]) -> Value {
        let values = self.values(arguments).await;
        assert_eq!(values.len(), 1, "{arguments:?}: {values:?}");
        values[0].clone()
    }
}

pub(crate) fn command(arguments: &[&str], url: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env_remove("DATABASE_URL").env_remove("OUTBOX_SCHEMA").env("TZ", "UTC").env("RUST_LOG", "trace");
    if let Some(url) = url {
        command.env("DATABASE_URL", url);
    }
    command
}

pub(crate) async fn outbox(arguments: &[&str], url: Option<&str>) -> Ended {
    Ended::from(command(arguments, url).output().await.expect("run"))
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        let (out, err) = (String::from_utf8(stdout).expect("text"), String::from_utf8(stderr).expect("text"));
        // Of every command in these tests, with everything logged that can be.
        assert!(!out.contains(PASSWORD) && !err.contains(PASSWORD), "the password was printed: {out}{err}");
        assert!(!err.contains("panicked"), "{err}");
        Self { code: status.code().expect("it ended by itself"), out, err: without_logs(&err) }
    }
}

/// What the command itself said.
fn without_logs(err: &str) -> String {
    let said = err.lines().filter(|line| !line.starts_with("20") && !line.starts_with(' '));
    said.collect::<Vec<_>>().join("\n")
}

/// Asks a running command to end, as Ctrl-C does.
pub(crate) async fn interrupt(child: &Child, signal: &str) {
    let pid = child.id().expect("it runs").to_string();
    let sent = Command::new("kill").args([signal, &pid]).status().await.expect("kill");
    assert!(sent.success());
}

pub(crate) fn changed(aggregate: i64, v: usize) -> NewEvent {
    NewEvent::json("Agg", aggregate, "AggChanged", &json!({ "v": v })).expect("event")
}

pub(crate) fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"))
}

fn with_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (user, host) = rest.split_once('@').expect("a user");
    let user = user.split(':').next().expect("a name");
    format!("{scheme}://{user}:{PASSWORD}@{host}")
}
