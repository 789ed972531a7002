#![doc = include_str!("../README.md")]

#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod stored;

#[cfg(feature = "postgres")]
pub use postgres::PostgresLog;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteLog;
