//! Making the tables.

use sqlx::AssertSqlSafe;
use test_services::PostgresVersion;

use crate::support::{Bed, Store, outbox};

async fn makes_a_log(bed: &Bed) {
    if !bed.is_sqlite() {
        let ended = bed.outbox(&["status"]).await;
        assert_eq!(ended.code, 1);
        assert!(ended.err.contains("run `outbox migrate`"), "{}", ended.err);
    }
    let made = bed.value(&["migrate", "--lanes", "8"]).await;
    assert_eq!(made["lanes"], 8);
    assert_eq!(bed.value(&["migrate"]).await, made, "nothing to do");
    let status = bed.value(&["status"]).await;
    assert_eq!((&status["log"], &status["lanes"], &status["head"]), (&made["log"], &8.into(), &0.into()));
    let other = bed.outbox(&["migrate", "--lanes", "16"]).await;
    assert_eq!(other.code, 1);
    assert!(other.err.contains("8 lanes"), "{}", other.err);
    assert!(bed.fine(&["status"]).await.contains("no consumers"));
}

#[tokio::test]
async fn migrate_makes_a_log_on_postgres_15() {
    Bed::run_on(Bed::empty_postgres(PostgresVersion::V15).await, async |bed| makes_a_log(bed).await).await;
}

#[tokio::test]
async fn migrate_makes_a_log_on_postgres_18() {
    Bed::run_on(Bed::empty_postgres(PostgresVersion::V18).await, async |bed| makes_a_log(bed).await).await;
}

#[tokio::test]
async fn migrate_makes_a_log_on_sqlite() {
    Bed::run_on(Bed::empty_sqlite(), async |bed| makes_a_log(bed).await).await;
}

#[tokio::test]
async fn the_printed_script_makes_a_log() {
    let script = outbox(&["--schema", "by_hand", "migrate", "--print", "--lanes", "4"], None).await;
    assert_eq!(script.code, 0, "no database is asked");
    Bed::run_on(Bed::empty_postgres(PostgresVersion::V18).await, async |bed| {
        sqlx::raw_sql(AssertSqlSafe(script.out)).execute(bed.pool()).await.expect("script");
        let status = bed.value(&["--schema", "by_hand", "status"]).await;
        assert_eq!((&status["lanes"], &status["schema"]), (&4.into(), &"by_hand".into()));
    })
    .await;

    Bed::run_on(Bed::empty_sqlite(), async |bed| {
        let script = bed.fine(&["migrate", "--print"]).await;
        let Store::Sqlite { pool, .. } = &bed.store else { unreachable!("made above") };
        sqlx::raw_sql(AssertSqlSafe(script)).execute(pool).await.expect("script");
        assert_eq!(bed.value(&["status"]).await["lanes"], 64);
    })
    .await;
}
