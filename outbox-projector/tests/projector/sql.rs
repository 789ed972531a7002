//! SQL projections, each case on every database.

mod apply;
mod conformance;
pub(crate) mod database;
mod faults;
#[cfg(feature = "postgres")]
mod faults_on_postgres;
pub(crate) mod handler;
mod letters;
mod migration;
pub(crate) mod model;
mod rebuild;
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
                let database = crate::sql::database::fresh::<sqlx::Postgres>().await;
                super::$case(&database).await;
                database.tear_down().await;
            })*
        }
        #[cfg(feature = "sqlite")]
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let database = crate::sql::database::fresh::<sqlx::Sqlite>().await;
                super::$case(&database).await;
                database.tear_down().await;
            })*
        }
    };
}
pub(crate) use on_every_database;
