//! The logs on real databases: PostgreSQL 15, PostgreSQL 18 and SQLite.

mod admin;
mod append;
mod atomicity;
mod conformance;
mod durability;
mod fences;
mod history;
mod members;
mod notify;
mod parking;
mod plans;
mod pooler;
mod random;
mod reading;
mod reanchor;
mod restore;
mod retention;
mod scenarios;
mod schema;
mod source;
mod sql_writers;
mod sqlite;
mod support;
mod upgrade;
mod writing;
