//! The suite that every projection passes, with dead letters kept.

use async_trait::async_trait;
use outbox_core::testing::projection::ProjectionHarness;
use outbox_projector::sql::{BlockedKeys, Handler, SqlProjection};

use super::keeping;
use crate::sql::{Database, ReadModel, database::TestDatabase, fresh};

struct Harness<DB: TestDatabase> {
    database: Database<DB>,
    projection: SqlProjection<DB>,
}

impl<DB: TestDatabase> Harness<DB>
where
    ReadModel: Handler<DB>,
{
    async fn fresh() -> Self {
        let database = fresh::<DB>().await;
        Self { projection: keeping(&database, BlockedKeys::Hold, &ReadModel::default()), database }
    }
}

#[async_trait]
impl<DB: TestDatabase> ProjectionHarness for Harness<DB>
where
    ReadModel: Handler<DB>,
{
    type Projection = SqlProjection<DB>;

    fn projection(&self) -> &SqlProjection<DB> {
        &self.projection
    }

    async fn effects(&self, aggregate_type: &str, key: &str) -> Vec<u64> {
        let mut model = self.database.model().await;
        let row = model.0.remove(&format!("{aggregate_type}/{key}")).unwrap_or_default();
        row.list.into_iter().map(|n| n as u64).collect()
    }

    async fn tear_down(self) {
        self.database.tear_down().await;
    }
}

#[cfg(feature = "postgres")]
outbox_core::projection_suite!(postgres, Harness::<sqlx::Postgres>::fresh);
#[cfg(feature = "sqlite")]
outbox_core::projection_suite!(sqlite, Harness::<sqlx::Sqlite>::fresh);
