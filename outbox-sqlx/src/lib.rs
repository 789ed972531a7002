#![doc = include_str!("../README.md")]

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod doctor;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod generations;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod lagging;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod parked;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod refusals;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod stored;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod trace_context;

#[cfg(feature = "postgres")]
pub use postgres::PostgresLog;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteLog;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use trace_context::CurrentTrace;
