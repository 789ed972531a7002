//! The `outbox` command: looks at logs and looks after them.

mod arguments;
mod commands;
mod confirm;
mod connection;
mod event;
mod failure;
mod interrupt;
mod output;
mod secrets;
mod table;
mod text;

use std::{
    io::{IsTerminal as _, stderr},
    process::ExitCode,
};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use arguments::Arguments;
use failure::Failure;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => return failure::of_arguments(&told),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("cannot start: {error}")).report(),
    };
    match runtime.block_on(commands::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
