//! Read models in SQL databases: effects, position and watermarks in one transaction.
//!
//! A few tables serve all projections of a database (or of a schema): `projector_position` holds how far each
//! projection is in each partition, `projector_watermark` the last sequence of each key it has seen, `projector_seen`
//! the ids of events that carry no sequence, from writers that are not this library, `projector_dead_letter` what was
//! given up. Create them with [`SqlProjection::migrate`], or by hand from [`SqlProjection::migration_sql`].

mod availability;
mod generations;
mod handler;
mod letters;
mod names;
#[cfg(feature = "postgres")]
mod postgres;
mod projection;
#[cfg(feature = "sqlite")]
mod sqlite;
mod step;
mod store;
mod watermark;

pub use crate::dead_letters::{Letters, Replay, ReplayReport, ReplayedKey, Series};
pub use generations::{SqlGenerations, SqlReadModel};
pub use handler::{Handled, Handler, HandlerError, HandlerErrorKind};
pub use letters::{BlockedKeys, KeptLetter, KeptRecord, LetterFilter, SqlDeadLetters};
pub use names::{InvalidName, ProjectionName, SchemaName};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresProjection, PostgresTables};
pub use projection::{SqlProjection, SqlProjectionBuilder};
pub(crate) use projection::{begin, end, store_error};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteProjection, SqliteTables};
pub(crate) use step::after_handler;
pub use store::SqlDatabase;
