//! What is particular to SQLite.

mod bed;
mod file;
mod members;
mod parking;
mod processes;
mod restored;
mod retention;
mod upgrade;

pub(crate) use bed::SqliteBed;
