//! A tutors marketplace: every change of a tutor is an event in an outbox, and search is made from these events.

mod app;
mod config;
#[cfg(feature = "embedded")]
mod data_dir;
mod db;
mod demo;
mod http;
mod letters;
mod money;
mod pipeline;
mod search;
mod secrets;
mod shape;
mod signals;
mod tutors;
mod web;

use std::{
    io::{IsTerminal, stderr},
    process::ExitCode,
    time::Duration,
};

use tracing_subscriber::EnvFilter;

#[cfg(not(any(feature = "embedded", feature = "production")))]
compile_error!("choose at least one shape: --features embedded, or --features production");

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,marketplace=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Causes can span lines; whoever reads this in a terminal or a unit's journal gets one.
            let line = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
            eprintln!("marketplace: {line}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let (config, command) = config::Config::load()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = match command {
        None => runtime.block_on(app::run(config)),
        Some(config::Command::SearchLetters { what }) => runtime.block_on(letters::run(&config, what)),
    };
    // A commit of the search index that is under way may end; nothing waits longer for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}
