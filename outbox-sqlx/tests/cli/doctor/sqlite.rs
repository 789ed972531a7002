//! What is particular to SQLite.

use outbox_sqlx::{
    SqliteLog,
    doctor::{Level, Limits},
};
use sqlx::{
    Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous},
};

use super::examine;
use crate::support::{Bed, Store};

fn path(bed: &Bed) -> &str {
    bed.url.strip_prefix("sqlite:").expect("a path")
}

#[tokio::test]
async fn a_file_that_is_not_in_wal_mode() {
    let bed = Bed::sqlite().await;
    let Store::Sqlite { pool, .. } = &bed.store else { unreachable!("made above") };
    pool.close().await;
    let mut conn =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path(&bed))).await.expect("open");
    sqlx::query("PRAGMA journal_mode = DELETE").execute(&mut conn).await.expect("change");
    examine(&bed, &[]).await.assert_found("journal", "problem", &["journal mode delete"]);
    for arguments in [&["doctor"][..], &["doctor", "--quiet"], &["doctor", "--json"]] {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let ended = bed.command(arguments).stdout(writer).output().await.expect("run");
        assert_eq!(ended.status.code(), Some(3), "problems that nobody reads: {arguments:?}");
    }
    conn.close().await.expect("close");
}

/// A setting of connections, so only the application itself can look.
#[tokio::test]
async fn connections_that_a_power_cut_would_hurt() {
    let bed = Bed::sqlite().await;
    let careless = SqliteLog::connect_options(path(&bed)).synchronous(SqliteSynchronous::Normal);
    let pool = SqlitePoolOptions::new().connect_with(careless).await.expect("connect");
    let found = SqliteLog::builder(pool).build().examine(&Limits::default()).await.expect("examine");
    let finding = found.iter().find(|finding| finding.check == "synchronous").expect("looked at");
    assert_eq!(finding.level, Level::Problem);
    assert!(finding.message.contains("synchronous = NORMAL"), "{finding:?}");
}

#[tokio::test]
async fn a_reader_that_stays() {
    let bed = Bed::sqlite().await;
    let Store::Sqlite { pool, .. } = &bed.store else { unreachable!("made above") };
    let mut reader = pool.begin().await.expect("begin");
    sqlx::query("SELECT count(*) FROM outbox_event").execute(&mut *reader).await.expect("read");
    for n in 0..30 {
        bed.append_some(n, 300).await;
    }
    let found = examine(&bed, &["--max-wal", "1"]).await;
    found.assert_found("wal", "warning", &["is 1", "held by a reader"]);
    examine(&bed, &[]).await.assert_found("wal", "ok", &[]);
    reader.rollback().await.expect("rollback");
}
