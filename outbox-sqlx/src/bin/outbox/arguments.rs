//! What can be typed.

use clap::{Parser, Subcommand};
use outbox_sqlx::postgres::SchemaName;

use crate::commands::{consumers, doctor, event, lanes, migrate, parked, prune, reanchor, status, tail};

const AFTER_HELP: &str = "\
Exit codes:
  0  fine (also when a reader of the output went away, and when Ctrl-C ended --watch or --follow)
  1  failed; the reason is on standard error
  2  wrong usage, or something destructive was not confirmed: nothing was done
  3  `doctor` found problems, whether or not somebody reads them (warnings alone: 0)

Examples:
  outbox --database-url postgres://app@db.internal/shop migrate
  DATABASE_URL=sqlite:shop.db outbox status
  outbox status --watch
  outbox parked list --json | jq .reason
  outbox doctor || page-somebody

Log messages go to standard error; RUST_LOG chooses them (default: warn).";

const DATABASE: &str = "The database: postgres://user@host/name or sqlite:path";

const DATABASE_AT_LENGTH: &str = "\
The database: postgres://user@host/name or sqlite:path

A password is better kept in DATABASE_URL, PGPASSWORD or ~/.pgpass: other users of the machine can see arguments.";

/// Looks at transactional outbox logs in PostgreSQL and SQLite, and looks after them.
///
/// Each command works beside running relays and writers.
#[derive(Debug, Parser)]
#[command(name = "outbox", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Arguments {
    #[arg(long, help = DATABASE, long_help = DATABASE_AT_LENGTH, global = true, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) database_url: Option<String>,

    /// The schema that holds the log's tables (PostgreSQL only)
    #[arg(long, global = true, env = "OUTBOX_SCHEMA", default_value_t = SchemaName::default(), value_name = "NAME")]
    pub(crate) schema: SchemaName,

    /// Prints JSON for programs: one value, or one a line where there can be many
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Creates the log's tables or brings them up to date
    Migrate(migrate::Options),
    /// Shows how far each consumer is
    Status(status::Options),
    /// Shows who owns which lanes
    Lanes(lanes::Options),
    /// Lists, registers, pauses, resumes and drops consumers
    Consumers(consumers::Options),
    /// Prints the newest events
    Tail(tail::Options),
    /// Shows one event, and what each consumer did with it
    Event(event::Options),
    /// Lists, shows, redrives and discards events that could not be published
    Parked(parked::Options),
    /// Removes events that every consumer has passed
    Prune(prune::Options),
    /// Makes consumers' places valid again after a restore, a move or a fail-over that lost transactions
    Reanchor(reanchor::Options),
    /// Looks for what will hurt, and says what to do about it
    Doctor(doctor::Options),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_consistent_and_every_command_has_examples() {
        let mut command = super::Arguments::command();
        command.build();
        command.clone().debug_assert();
        check(&command);
    }

    fn check(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Examples:\n  "), "outbox {} has no examples", command.get_name());
        command.get_subcommands().filter(|c| c.get_name() != "help").for_each(check);
    }
}
