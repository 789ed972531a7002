//! Read models in SQL databases: effects, position and watermarks in one transaction.
//!
//! Three tables serve all projections of a database (or of a schema): `projector_position` holds how far each
//! projection is in each partition, `projector_watermark` the last sequence of each key it has seen, `projector_seen`
//! the ids of events that carry no sequence, from writers that are not this library. Create them with
//! [`SqlProjection::migrate`], or by hand from [`SqlProjection::migration_sql`].

mod handler;
mod names;
#[cfg(feature = "postgres")]
mod postgres;
mod projection;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod watermark;

pub use handler::{Handled, Handler, HandlerError, HandlerErrorKind};
pub use names::{InvalidName, ProjectionName, SchemaName};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresProjection, PostgresTables};
pub use projection::{SqlProjection, SqlProjectionBuilder};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteProjection, SqliteTables};
pub use store::SqlDatabase;
