//! Making the tables, and finding them as expected.

use outbox_core::{
    event::LaneCount,
    log::{ConsumerName, EventLog as _, LogErrorKind, StartAt},
    outbox::{AppendErrorKind, Outbox as _},
};
use outbox_sqlx::{PostgresLog, postgres::SchemaName};

use crate::support::{Bed, changed, on_postgres};

fn schema(name: &str) -> SchemaName {
    SchemaName::parse(name).expect("name")
}

fn lanes(count: u8) -> LaneCount {
    LaneCount::new(count).expect("count")
}

on_postgres! {
    async fn missing_tables_are_a_typed_error(bed: &Bed) {
        let builder = PostgresLog::builder(bed.pool.clone()).schema(schema("nowhere"));
        assert_eq!(builder.clone().open().await.expect_err("open").kind(), LogErrorKind::NotMigrated);
        let log = builder.build();
        let name = ConsumerName::parse("relay").expect("name");
        let failed = log.register(&name, StartAt::Beginning).await.expect_err("register");
        assert_eq!(failed.kind(), LogErrorKind::NotMigrated);
        assert!(std::error::Error::source(&failed).is_some(), "the database's own words are kept");
        let mut tx = bed.begin().await;
        let failed = log.append(&mut tx, &[changed(1, 1)]).await.expect_err("append");
        assert_eq!(failed.kind(), AppendErrorKind::NotMigrated);
    }

    async fn another_number_of_lanes_is_refused(bed: &Bed) {
        let builder = || PostgresLog::builder(bed.pool.clone()).schema(schema("eight"));
        let log = builder().lanes(lanes(8)).migrate().await.expect("migrate");
        assert_eq!(log.identity().await.expect("identity").lanes, lanes(8));
        assert_eq!(builder().open().await.expect("taken as it is").identity().await.expect("identity").lanes, lanes(8));
        let other = builder().lanes(lanes(9));
        assert_eq!(other.clone().open().await.expect_err("open").kind(), LogErrorKind::Incompatible);
        let other = other.build();
        assert_eq!(other.migrate().await.expect_err("migrate").kind(), LogErrorKind::Incompatible);
        let mut tx = bed.begin().await;
        let refused = other.append(&mut tx, &[changed(1, 1)]).await.expect_err("append");
        assert_eq!(refused.kind(), AppendErrorKind::Incompatible);
    }

    async fn tables_of_a_newer_library_are_refused(bed: &Bed) {
        sqlx::query("UPDATE outbox.outbox_log SET schema_version = 99").execute(&bed.pool).await.expect("newer");
        let builder = PostgresLog::builder(bed.pool.clone());
        assert_eq!(builder.clone().open().await.expect_err("open").kind(), LogErrorKind::Incompatible);
        assert_eq!(builder.build().migrate().await.expect_err("migrate").kind(), LogErrorKind::Incompatible);
    }

    async fn several_processes_may_migrate_at_once(bed: &Bed) {
        let mut migrating = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let log = PostgresLog::builder(bed.pool.clone()).schema(schema("together")).build();
            migrating.spawn(async move {
                log.migrate().await.expect("migrate");
                log.identity().await.expect("identity").id
            });
        }
        let mut ids = migrating.join_all().await;
        ids.dedup();
        assert_eq!(ids.len(), 1, "one log for all");
    }

    /// Other users of the migrator keep their own notes.
    async fn other_migrations_are_left_alone(bed: &Bed) {
        let theirs = || {
            let sql = sqlx::SqlSafeStr::into_sql_str("CREATE TABLE theirs (n int)");
            let kind = sqlx::migrate::MigrationType::Simple;
            sqlx::migrate::Migrator::with_migrations(vec![sqlx::migrate::Migration::new(7, "theirs".into(), kind, sql, false)])
        };
        theirs().run(&bed.pool).await.expect("theirs");
        let log = PostgresLog::builder(bed.pool.clone()).schema(schema("mine")).migrate().await.expect("migrate");
        log.migrate().await.expect("again");
        theirs().run(&bed.pool).await.expect("theirs, again");
        let versions: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations").fetch_all(&bed.pool).await.expect("notes");
        assert_eq!(versions, [7]);
    }

    /// Nothing depends on `search_path`, and two logs in one database do not meet.
    async fn two_logs_in_one_database(bed: &Bed) {
        let other = PostgresLog::builder(bed.pool.clone()).schema(schema("select")).migrate().await.expect("migrate");
        let mut tx = bed.begin().await;
        sqlx::query("SET LOCAL search_path = 'pg_temp'").execute(&mut *tx).await.expect("set");
        let _receipt = bed.log.append(&mut tx, &[changed(1, 1)]).await.expect("append");
        let _receipt = other.append(&mut tx, &[changed(1, 2), changed(2, 1)]).await.expect("append");
        tx.commit().await.expect("commit");
        let mut reader = crate::support::Follower::from(other, StartAt::Beginning).await;
        assert_eq!(reader.catch_up().await.len(), 2);
        assert_eq!(bed.follow().await.catch_up().await.len(), 1);
    }

    async fn the_script_makes_what_migrate_makes(bed: &Bed) {
        let script = PostgresLog::migration_sql(&schema("by_hand"), lanes(16));
        sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&bed.pool).await.expect("script");
        let log = PostgresLog::builder(bed.pool.clone()).schema(schema("by_hand")).lanes(lanes(16)).migrate().await.expect("migrate");
        let mut tx = bed.begin().await;
        let _receipt = log.append(&mut tx, &[changed(1, 1)]).await.expect("append");
        tx.commit().await.expect("commit");
        // The migrator itself, and not only the look before it, takes the script's notes for its own.
        sqlx::query("UPDATE by_hand.outbox_log SET schema_version = 0").execute(&bed.pool).await.expect("older");
        let failed = log.migrate().await.expect_err("no migration leads from 0 to 1");
        assert_eq!(failed.kind(), LogErrorKind::NotMigrated);
    }

    /// A role that may only use the tables can start an application that calls `migrate`.
    async fn a_role_without_the_right_to_create_may_migrate_what_is_there(bed: &Bed) {
        let role = format!("app_{}", uuid::Uuid::now_v7().simple());
        for sql in [
            format!("CREATE ROLE {role}"),
            format!("GRANT USAGE ON SCHEMA outbox TO {role}"),
            format!("GRANT SELECT ON outbox.outbox_log TO {role}"),
            format!("GRANT INSERT ON outbox.outbox_event TO {role}"),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&bed.pool).await.expect("grant");
        }
        let options = bed.database.url().parse::<sqlx::postgres::PgConnectOptions>().expect("url");
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(2)
            .connect_with(options.options([("role", role.as_str())]))
            .await
            .expect("connect");
        let log = PostgresLog::builder(pool.clone()).migrate().await.expect("nothing to do");
        let mut tx = pool.begin().await.expect("begin");
        let _receipt = log.append(&mut tx, &[changed(1, 1)]).await.expect("append");
        tx.commit().await.expect("commit");
        pool.close().await;
        for sql in [format!("DROP OWNED BY {role}"), format!("DROP ROLE {role}")] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&bed.pool).await.expect("drop");
        }
    }

    /// Readers rely on it, and the wrong order would show once in a blue moon: so the plan is looked at.
    async fn a_transaction_has_its_id_before_it_draws_a_position(bed: &Bed) {
        let columns = "lane, id, aggregate_type, aggregate_id, event_type, content_type, created_at";
        let values = "0, gen_random_uuid(), 'Agg', n::text, 'AggChanged', 'application/json', now()";
        for rows in [
            format!("VALUES ({})", values.replace("n::text", "'1'")),
            format!("SELECT {values} FROM generate_series(1, 9) AS n"),
            format!("SELECT {values} FROM generate_series(1, 9) AS n ORDER BY n DESC"),
        ] {
            let explain = format!("EXPLAIN (VERBOSE) INSERT INTO outbox.outbox_event ({columns}) {rows}");
            let plan: Vec<String> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_all(&bed.pool).await.expect("plan");
            let line = plan.iter().find(|line| line.contains("nextval")).expect("a position is drawn");
            let xid = line.find("pg_current_xact_id()").expect("in the same projection");
            assert!(xid < line.find("nextval").expect("nextval"), "{line}");
        }
    }

    async fn starting_at_the_end(bed: &Bed) {
        bed.bump_and_commit(1).await;
        let mut open = bed.begin().await;
        bed.bump(&mut open, 2).await;
        let mut reader = crate::support::Follower::from(bed.log.clone(), StartAt::End).await;
        open.commit().await.expect("commit");
        bed.bump_and_commit(3).await;
        let came: Vec<_> = crate::support::versions(&reader.catch_up().await);
        assert_eq!(came, [crate::support::named(2, 1), crate::support::named(3, 1)]);
    }
}
