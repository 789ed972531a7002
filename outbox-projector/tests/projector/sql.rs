//! SQL projections, each case on every database.

mod apply;
mod conformance;
mod database;
mod faults;
#[cfg(feature = "postgres")]
mod faults_on_postgres;
mod handler;
mod migration;
mod model;
mod running;

use database::{Database, fresh};
use handler::ReadModel;

/// One test of each case for each database.
macro_rules! on_every_database {
    ($($case:ident),* $(,)?) => {
        #[cfg(feature = "postgres")]
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let database = super::super::fresh::<sqlx::Postgres>().await;
                super::$case(&database).await;
                database.tear_down().await;
            })*
        }
        #[cfg(feature = "sqlite")]
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let database = super::super::fresh::<sqlx::Sqlite>().await;
                super::$case(&database).await;
                database.tear_down().await;
            })*
        }
    };
}
use on_every_database;
