//! The projector's own tables.

#[cfg(feature = "postgres")]
mod postgres {
    use outbox_core::{projection::Projection, source::Partition};
    use outbox_projector::sql::{PostgresProjection, ProjectionName, SchemaName};
    use sqlx::Postgres;

    use super::super::{ReadModel, database::unmigrated};

    #[tokio::test]
    async fn several_processes_migrate_at_once_and_again() {
        let database = unmigrated::<Postgres>().await;
        let schema = SchemaName::parse("read_models").expect("schema");
        let all = (0..5).map(|_| {
            let (pool, schema) = (database.pool.clone(), schema.clone());
            tokio::spawn(async move { PostgresProjection::migrate(&pool, &schema).await })
        });
        for migrated in all.collect::<Vec<_>>() {
            migrated.await.expect("no panic").expect("migrate");
        }
        PostgresProjection::migrate(&database.pool, &schema).await.expect("migrate again");
        let name = ProjectionName::parse("model").expect("name");
        let builder = PostgresProjection::builder(database.pool.clone(), name, ReadModel::default());
        let projection = builder.schema(&schema).build();
        assert_eq!(projection.position(&Partition::new("p")).await.expect("position"), None);
        database.tear_down().await;
    }

    #[tokio::test]
    async fn the_printed_sql_does_the_same() {
        let database = unmigrated::<Postgres>().await;
        let schema = SchemaName::default();
        let sql = PostgresProjection::migration_sql(&schema);
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&database.pool).await.expect("the printed SQL");
        let all = database.count("projector_migration").await;
        PostgresProjection::migrate(&database.pool, &schema).await.expect("nothing left to do");
        assert_eq!(database.count("projector_migration").await, all);
        let projection = database.projection(ReadModel::default());
        assert_eq!(projection.position(&Partition::new("p")).await.expect("position"), None);
        database.tear_down().await;
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use outbox_core::{projection::Projection, source::Partition};
    use outbox_projector::sql::SqliteProjection;
    use sqlx::Sqlite;

    use super::super::{ReadModel, database::unmigrated};

    #[tokio::test]
    async fn the_printed_sql_does_what_migrating_does_and_both_can_be_repeated() {
        let database = unmigrated::<Sqlite>().await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(SqliteProjection::migration_sql()))
            .execute(&database.pool)
            .await
            .expect("the printed SQL");
        let all = database.count("projector_migration").await;
        for _ in 0..2 {
            SqliteProjection::migrate(&database.pool).await.expect("nothing left to do");
        }
        assert_eq!(database.count("projector_migration").await, all);
        let projection = database.projection(ReadModel::default());
        assert_eq!(projection.position(&Partition::new("p")).await.expect("position"), None);
        database.tear_down().await;
    }
}
