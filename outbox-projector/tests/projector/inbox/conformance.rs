//! The suite that every projection passes.

use async_trait::async_trait;
use outbox_core::testing::projection::ProjectionHarness;
use outbox_projector::{inbox::InboxProjection, sql::Handler};

use super::{Bed, Database, ReadModel, effects, fresh};

struct Harness<DB: Bed> {
    database: Database<DB>,
    projection: InboxProjection<DB>,
}

impl<DB: Bed> Harness<DB>
where
    ReadModel: Handler<DB>,
{
    async fn fresh() -> Self {
        let database = fresh::<DB>().await;
        Self { projection: effects(&database, ReadModel::default(), 3), database }
    }
}

#[async_trait]
impl<DB: Bed> ProjectionHarness for Harness<DB>
where
    ReadModel: Handler<DB>,
{
    type Projection = InboxProjection<DB>;

    fn projection(&self) -> &InboxProjection<DB> {
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
