//! One command a file.

pub(crate) mod consumers;
pub(crate) mod doctor;
pub(crate) mod event;
pub(crate) mod lanes;
pub(crate) mod migrate;
pub(crate) mod parked;
pub(crate) mod prune;
pub(crate) mod reanchor;
pub(crate) mod status;
pub(crate) mod tail;

use crate::{
    arguments::{Arguments, Command},
    connection::{Database, Log},
    failure::Failure,
    output::Output,
};

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    url: Option<String>,
    schema: outbox_sqlx::postgres::SchemaName,
    pub(crate) out: Output,
}

impl Context {
    /// # Errors
    /// See [`Database::parse`].
    pub(crate) fn database(&self) -> Result<Database, Failure> {
        Database::parse(self.url.as_deref(), &self.schema)
    }

    /// # Errors
    /// See [`Database::open`].
    pub(crate) async fn open(&self) -> Result<Log, Failure> {
        self.database()?.open().await
    }
}

/// # Errors
/// Why it could not be done.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { database_url, schema, json, command } = arguments;
    let context = Context { url: database_url, schema, out: Output::new(json) };
    match command {
        Command::Migrate(options) => migrate::run(&context, options).await,
        Command::Status(options) => status::run(&context, options).await,
        Command::Lanes(options) => lanes::run(&context, options).await,
        Command::Consumers(options) => consumers::run(&context, options).await,
        Command::Tail(options) => tail::run(&context, options).await,
        Command::Event(options) => event::run(&context, options).await,
        Command::Parked(options) => parked::run(&context, options).await,
        Command::Prune(options) => prune::run(&context, options).await,
        Command::Reanchor(options) => reanchor::run(&context, options).await,
        Command::Doctor(options) => doctor::run(&context, options).await,
    }
}
