//! The logs on real databases: PostgreSQL 15, PostgreSQL 18 and SQLite.

mod append;
mod atomicity;
mod conformance;
mod durability;
mod fences;
mod random;
mod scenarios;
mod schema;
mod sqlite;
mod support;
